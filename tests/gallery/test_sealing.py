import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.errors import ConfigError, GalleryError
from facekd.gallery.sealing import (
    AesSealer,
    PlainSealer,
    key_from_environment,
    key_from_file,
    key_from_text,
    new_key_file,
)

KEY = bytes(range(32))
SEALERS = [PlainSealer(), AesSealer(KEY, b"salt" * 4, "gallery one")]


@pytest.mark.parametrize("sealer", SEALERS, ids=lambda sealer: sealer.name)
@given(data=st.binary(max_size=200), flip=st.integers(0, 10_000))
def test_what_was_sealed_opens_and_nothing_else_does(sealer, data, flip):
    record = sealer.seal(data, "templates/7/3")
    assert sealer.unseal(record, "templates/7/3") == data
    damaged = bytearray(record)
    damaged[flip % len(record)] ^= 1 << (flip % 8)
    with pytest.raises(GalleryError, match="restore"):
        sealer.unseal(bytes(damaged), "templates/7/3")
    with pytest.raises(GalleryError):
        sealer.unseal(record[:-1], "templates/7/3")
    with pytest.raises(GalleryError):
        sealer.unseal(record, "templates/7/4")  # somebody else's record
    with pytest.raises(GalleryError):
        sealer.unseal(b"", "templates/7/3")


def test_a_record_opens_only_in_its_own_gallery_and_under_its_own_key():
    record = SEALERS[1].seal(b"template", "templates/1/1")
    for other in (AesSealer(KEY, b"salt" * 4, "gallery two"), AesSealer(KEY, b"tlas" * 4, "gallery one")):
        with pytest.raises(GalleryError):
            other.unseal(record, "templates/1/1")
    assert SEALERS[1].key_check != AesSealer(KEY[::-1], b"salt" * 4, "gallery one").key_check


def test_the_same_template_is_never_sealed_the_same_way_twice():
    assert len({SEALERS[1].seal(b"template", "templates/1/1") for _ in range(100)}) == 100


def test_keys_come_as_bytes_hexadecimal_or_base64(tmp_path):
    import base64

    for content in (KEY, KEY.hex().encode() + b"\n", base64.b64encode(KEY) + b"\n"):
        path = tmp_path / "key"
        path.write_bytes(content)
        assert key_from_file(path)() == KEY


@pytest.mark.parametrize("text", ["", "short", "00" * 31, "g" * 64, "=" * 44])
def test_what_is_no_key_is_refused_without_being_shown(tmp_path, text):
    with pytest.raises(ConfigError, match="256-bit") as caught:
        key_from_text(text, "the test")
    assert not text or text not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        key_from_file(tmp_path / "absent")()


@pytest.mark.parametrize("key", [b"", b"password", bytes(31), bytes(33), KEY.hex(), None], ids=repr)
def test_a_key_of_another_length_seals_nothing(key):
    with pytest.raises(ConfigError, match="256-bit") as caught:
        AesSealer(key, b"salt" * 4, "gallery one")
    assert "password" not in str(caught.value)


def test_a_key_may_come_as_bytes_that_can_be_wiped():
    record = AesSealer(bytearray(KEY), b"salt" * 4, "gallery one").seal(b"template", "templates/1/1")
    assert SEALERS[1].unseal(record, "templates/1/1") == b"template"


def test_a_key_from_the_environment(monkeypatch):
    monkeypatch.delenv("FACEKD_GALLERY_KEY", raising=False)
    assert key_from_environment() is None
    monkeypatch.setenv("FACEKD_GALLERY_KEY", KEY.hex())
    source = key_from_environment()
    assert source is not None
    assert source() == KEY


def test_a_new_key_file_is_private_and_never_overwritten(tmp_path):
    path = tmp_path / "key"
    key = new_key_file(path)()
    assert len(key) == 32
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="no key was written"):
        new_key_file(path)
    assert key_from_file(path)() == key
