"""A stolen gallery without the key yields no template."""

import numpy as np
import pytest

from facekd.errors import ConfigError, GalleryError
from facekd.gallery import cache
from facekd.gallery.copies import backup, restore
from facekd.gallery.maintenance import check, is_encrypted, rotate_key
from facekd.gallery.policy import EnrolmentPolicy
from facekd.gallery.records import NewTemplate


def _old():
    return b"o" * 32


def _new():
    return b"n" * 32


PIECE = 16
"""Numbers that must stand side by side to count as a piece of a template."""


def _forms(vector):
    """A template as it might lie in a file: kind and bytes of each piece."""
    low, high = vector.min(), vector.max()
    unsigned = np.round((vector - low) / (high - low) * 255).astype(np.uint8)
    signed = np.round(vector / np.abs(vector).max() * 127).astype(np.int8)
    arrays = {
        "float32": [vector.astype("<f4"), vector.astype(">f4")],
        "float16": [vector.astype("<f2"), vector.astype(">f2")],
        "float64": [vector.astype("<f8")],
        "codes": [unsigned, signed],
    }
    for kind, forms in arrays.items():
        for form in forms:
            yield from ((kind, form[start : start + PIECE].tobytes()) for start in range(0, len(form), PIECE))


def _leaks(folder, vectors, codes=()):
    """Which files hold a piece of a template, and in which form: {(file, form)}.

    ``codes`` are those of the gallery's own index, (N, K) uint8; of others only the plain ones are looked for.
    """
    pieces = [piece for vector in vectors for piece in _forms(vector)]
    for row in codes:
        pieces += [("codes", row[start : start + PIECE].tobytes()) for start in range(0, len(row), PIECE)]
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found |= {(path.name, kind) for kind, piece in pieces if piece in content}
    return found


def _codes(gallery):
    """What the index of a large gallery holds of its templates, read from its cache with the gallery's key."""
    store = gallery.file_store("a cache")
    cached = cache.load(store.path, store.identity(), store.sealer)
    assert cached is not None
    assert len(cached.codes) >= len(gallery)
    return cached.codes.copy()


@pytest.fixture
def vectors(unit):
    return [unit(seed) for seed in range(1, 9)]


@pytest.fixture
def large(monkeypatch):
    """Galleries are large ones, with an index in codes and a cache of it, from the sixth template on."""
    monkeypatch.setattr("facekd.gallery.live.FLAT_UP_TO", 5)


@pytest.mark.parametrize("kind", ["float32", "float16", "codes"])
@pytest.mark.parametrize("name", ["gallery.db", "gallery.db-wal", "gallery.db.index", "gallery.db-journal"])
def test_the_search_for_leaks_finds_every_form_in_every_file(vectors, tmp_path, kind, name):
    rng = np.random.default_rng(0)
    for vector in vectors[:2]:
        for piece in (piece for form, piece in _forms(vector) if form == kind):
            (tmp_path / name).write_bytes(rng.bytes(4097) + piece + rng.bytes(11))
            assert _leaks(tmp_path, vectors) == {(name, kind)}
    own = rng.integers(0, 256, (3, 64), np.uint8)
    (tmp_path / name).write_bytes(rng.bytes(4097) + own[1, 16:32].tobytes())
    assert _leaks(tmp_path, vectors) == set()
    assert _leaks(tmp_path, vectors, own) == {(name, "codes")}


def test_the_search_for_leaks_finds_them_in_a_plain_gallery(open_gallery, vectors, tmp_path, large):
    gallery = open_gallery()
    gallery.enrol("Ada", vectors)
    assert _leaks(tmp_path, vectors) >= {("gallery.db-wal", "float32")}
    backup(gallery, tmp_path / "backup.db")
    assert gallery.identify(vectors[0]).person == "Ada"
    gallery.close()
    codes = _codes(open_gallery())
    assert {("gallery.db", "float32"), ("backup.db", "float32"), ("gallery.db.index", "codes")} <= _leaks(
        tmp_path, vectors, codes
    )


def test_no_file_of_an_encrypted_gallery_holds_a_template(open_gallery, make_face, vectors, tmp_path, large):
    crop = np.random.default_rng(5).integers(0, 256, (112, 112, 3), np.uint8)
    gallery = open_gallery(key=_old)
    gallery.enrol("Ada", [make_face(v, crop=crop) for v in vectors], policy=EnrolmentPolicy(keep_crops=True))
    assert gallery.identify(vectors[0]).person == "Ada"
    backup(gallery, tmp_path / "backup.db")
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= {"gallery.db", "gallery.db-wal", "gallery.db-shm", "backup.db"}
    assert _leaks(tmp_path, vectors) == set()
    gallery.close()
    again = open_gallery(key=_old)
    codes = _codes(again)
    assert (tmp_path / "gallery.db.index").is_file()
    assert _leaks(tmp_path, vectors, codes) == set()
    again.remove_templates("Ada", [again.templates("Ada")[0].id])
    rotate_key(again, _new)
    again.enrol("Grace", [-vectors[0]])
    assert _leaks(tmp_path, [*vectors, -vectors[0]], codes) == set()
    again.close()
    assert _leaks(tmp_path, [*vectors, -vectors[0]], np.concatenate([codes, _codes(open_gallery(key=_new))])) == set()
    for path in tmp_path.iterdir():  # nor a crop, as pixels or as a picture file
        assert crop[50].tobytes() not in path.read_bytes()
        assert b"\x89PNG\r\n" not in path.read_bytes()
    assert is_encrypted(tmp_path / "gallery.db")


def test_a_process_that_is_killed_leaves_no_template_either(open_gallery, vectors, tmp_path, large):
    """Its files as they lie on disk in the middle of a change, with the WAL or a journal beside them."""
    gallery = open_gallery(key=_old)
    gallery.enrol("Ada", vectors[:7])
    with gallery.store.writing():
        number = gallery.store.add_person("Grace", "")
        gallery.store.add_templates(number, [NewTemplate(vectors[7])] * 200, "")  # more than SQLite's cache would hold
        assert _leaks(tmp_path, vectors) == set()
        copy = tmp_path / "stolen"
        copy.mkdir()
        for path in tmp_path.glob("gallery.db*"):
            (copy / path.name).write_bytes(path.read_bytes())
    assert _leaks(copy, vectors) == set()


@pytest.mark.parametrize("key", [None, _new], ids=["no key", "wrong key"])
def test_without_its_key_it_does_not_open(open_gallery, vectors, key):
    open_gallery(key=_old).enrol("Ada", vectors)
    with pytest.raises(GalleryError, match="key"):
        open_gallery(key=key)
    assert open_gallery(key=_old).identify(vectors[1]).person == "Ada"


def test_a_key_for_a_plain_gallery_is_no_false_comfort(open_gallery, vectors):
    open_gallery().enrol("Ada", vectors)
    with pytest.raises(GalleryError, match="not encrypted"):
        open_gallery(key=_old)


def test_encrypting_a_plain_gallery_leaves_nothing_in_the_clear(open_gallery, vectors, tmp_path):
    gallery = open_gallery()
    gallery.enrol("Ada", vectors)
    rotate_key(gallery, _old)
    assert _leaks(tmp_path, vectors) == set()
    gallery.enrol("Grace", [-vectors[0]])
    assert gallery.identify(-vectors[0]).person == "Grace"
    gallery.close()
    assert check(open_gallery(key=_old)).problems == ()


def test_after_a_rotation_the_old_key_and_the_old_records_are_of_no_use(open_gallery, vectors, tmp_path):
    gallery = open_gallery(key=_old)
    gallery.enrol("Ada", vectors)
    with gallery.store.reading():
        (record,) = gallery.store.connection.sqlite.execute("SELECT template FROM templates LIMIT 1").fetchone()
    rotate_key(gallery, _new)
    gallery.close()
    assert bytes(record) not in (tmp_path / "gallery.db").read_bytes()
    with pytest.raises(GalleryError, match="key"):
        open_gallery(key=_old)
    assert open_gallery(key=_new).identify(vectors[3]).person == "Ada"


def test_another_process_follows_a_rotation_through_its_key_source_or_stops(open_gallery, vectors):
    current = [_old()]
    follows, stays, rotates = open_gallery(key=lambda: current[0]), open_gallery(key=_old), open_gallery(key=_old)
    rotates.enrol("Ada", vectors[:1])
    assert follows.identify(vectors[0]).person == "Ada"
    rotate_key(rotates, _new)
    current[0] = _new()
    follows.enrol("Grace", vectors[1:2])
    assert rotates.identify(vectors[1]).person == "Grace"
    with pytest.raises(GalleryError, match="key"):
        stays.enrol("Joan", vectors[2:3])
    assert check(rotates).problems == ()


def test_a_record_moved_to_another_person_is_refused(open_gallery, vectors):
    gallery = open_gallery(key=_old)
    gallery.enrol("Guard", vectors[:1])
    gallery.enrol("Thief", vectors[1:2])
    sqlite = gallery.store.connection.sqlite
    guard, thief = (row[0] for row in sqlite.execute("SELECT template FROM templates ORDER BY id").fetchall())
    sqlite.execute("UPDATE templates SET template = ? WHERE template = ?", (thief, guard))
    with pytest.raises(GalleryError, match="moved"):
        open_gallery(key=_old).identify(vectors[1])
    assert any("moved" in problem for problem in check(gallery).problems)


def test_an_encrypted_backup_is_restored_with_its_key(open_gallery, vectors, tmp_path):
    gallery = open_gallery(key=_old)
    gallery.enrol("Ada", vectors)
    backup(gallery, tmp_path / "backup.db")
    gallery.remove("Ada")
    with pytest.raises(GalleryError, match="key"):
        restore(tmp_path / "backup.db", tmp_path / "gallery.db", key=_new)
    assert gallery.people() == []
    restore(tmp_path / "backup.db", tmp_path / "gallery.db", key=_old)
    assert gallery.identify(vectors[2]).person == "Ada"


def test_a_plain_backup_does_not_lay_an_encrypted_gallery_open(open_gallery, vectors, tmp_path):
    gallery, path = open_gallery(), tmp_path / "gallery.db"
    gallery.enrol("Ada", vectors)
    backup(gallery, tmp_path / "plain.db")
    rotate_key(gallery, _old)
    with pytest.raises(ConfigError, match="rotate-key"):
        restore(tmp_path / "plain.db", path)
    assert is_encrypted(path)
    gallery.close()
    path.write_bytes(path.read_bytes()[:40_000])  # a damaged one no less
    with pytest.raises(ConfigError, match="rotate-key"):
        restore(tmp_path / "plain.db", path)
    assert not restore(tmp_path / "plain.db", tmp_path / "elsewhere.db").encrypted  # the advice
    with open_gallery(tmp_path / "elsewhere.db") as elsewhere:
        rotate_key(elsewhere, _old)
    assert restore(tmp_path / "elsewhere.db", path, key=_old).encrypted
    assert open_gallery(key=_old).identify(vectors[0]).person == "Ada"


def test_a_rotation_says_when_a_reader_keeps_what_lay_in_the_clear(open_gallery, vectors, tmp_path):
    gallery, reader = open_gallery(), open_gallery()
    gallery.enrol("Ada", vectors[:1])
    gallery.store.connection.sqlite.execute("PRAGMA busy_timeout = 100")
    with reader.store.reading():
        reader.store.people()
        assert not rotate_key(gallery, _new)
        assert vectors[0].tobytes() in b"".join(path.read_bytes() for path in tmp_path.iterdir())
        health = check(gallery)
        assert (health.problems, health.erased) == ((), False)  # being read is no damage
    assert check(gallery).erased
    assert vectors[0].tobytes() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert rotate_key(gallery, _old)


@pytest.mark.parametrize(
    "key", [lambda: b"", lambda: b"password", b"k" * 32, "k" * 32], ids=["empty", "password", "bytes", "text"]
)
def test_what_is_no_key_encrypts_nothing(open_gallery, vectors, tmp_path, key):
    with pytest.raises(ConfigError, match="256-bit key"):
        open_gallery(tmp_path / "new.db", key=key)
    gallery = open_gallery()
    gallery.enrol("Ada", vectors[:1])
    with pytest.raises(ConfigError, match="256-bit key"):
        rotate_key(gallery, key)
    assert not is_encrypted(tmp_path / "gallery.db")
    assert gallery.identify(vectors[0]).person == "Ada"
