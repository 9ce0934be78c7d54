"""Galleries beyond the flat limit: the same answers, and a cache that saves reading every template."""

import numpy as np
import pytest

from facekd.gallery import NewTemplate, cache
from facekd.gallery.maintenance import backup, restore, rotate_key
from facekd.gallery.quantised import QuantisedIndex
from facekd.gallery.store import Store

PEOPLE = 400


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch):
    monkeypatch.setattr("facekd.gallery.live.FLAT_UP_TO", 300)


@pytest.fixture
def reads(monkeypatch):
    """How often all templates were read."""
    calls = []
    templates = Store.templates
    monkeypatch.setattr(Store, "templates", lambda self, after=0: calls.append(1) or templates(self, after))
    return calls


@pytest.fixture
def fill(unit):
    def make(gallery, people=PEOPLE):
        with gallery.store.writing():
            for number in range(people):
                person = gallery.store.add_person(f"person {number}", "")
                gallery.store.add_templates(person, [NewTemplate(unit(number))], "")
        return gallery

    return make


@pytest.mark.parametrize("key", [None, lambda: b"k" * 32], ids=["plain", "encrypted"])
def test_answers_stay_when_a_gallery_grows_large(open_gallery, fill, unit, key):
    gallery = fill(open_gallery(key=key), 299)
    probe = unit(5000, near=unit(7), cosine=0.8)
    small = gallery.identify(probe, threshold=0.5)
    for number in range(299, 310):
        gallery.enrol(f"person {number}", [unit(number)])
        assert gallery.identify(unit(number), threshold=0.5).person == f"person {number}"
    assert isinstance(gallery._live._index, QuantisedIndex)
    large = gallery.identify(probe, threshold=0.5)
    assert (large.person, large.score) == ("person 7", pytest.approx(small.score, abs=1e-6))
    gallery.remove("person 7")
    assert gallery.identify(probe, threshold=0.5).person is None


@pytest.mark.parametrize("key", [None, lambda: b"k" * 32], ids=["plain", "encrypted"])
def test_the_next_opening_reads_the_cache_and_follows_from_there(open_gallery, fill, unit, reads, tmp_path, key):
    gallery = fill(open_gallery(key=key))
    gallery.identify(unit(1), threshold=0.5)
    assert len(reads) == 1
    gallery.close()
    assert cache.cache_path(tmp_path / "gallery.db").is_file()
    with open_gallery(key=key, create=False) as later:
        later.enrol("late", [unit(9000)])
    with open_gallery(key=key) as again:
        assert again.identify(unit(3), threshold=0.5).person == "person 3"
        assert again.identify(unit(9000), threshold=0.5).person == "late"
    assert len(reads) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no cache at all\n" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:3000] + b"?" + path.read_bytes()[3001:]),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"journal": 4', b'"journal": 3')),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"pieces": 1', b'"pieces": 0')),
    ],
    ids=["empty", "other", "truncated", "altered", "another change", "no piece"],
)
def test_a_damaged_cache_is_ignored(open_gallery, fill, unit, reads, tmp_path, damage):
    with fill(open_gallery()) as gallery:
        gallery.identify(unit(1), threshold=0.5)
    damage(cache.cache_path(tmp_path / "gallery.db"))
    with open_gallery() as again:
        assert again.identify(unit(3), threshold=0.5).person == "person 3"
    assert len(reads) == 2


def test_another_gallerys_cache_is_ignored(open_gallery, fill, unit, tmp_path):
    with fill(open_gallery()) as gallery:
        gallery.identify(unit(1), threshold=0.5)
    with fill(open_gallery(tmp_path / "other.db"), 350) as other:
        other.rename("person 3", "somebody else")
        other.identify(unit(1), threshold=0.5)
    cache.cache_path(tmp_path / "gallery.db").replace(cache.cache_path(tmp_path / "other.db"))
    with open_gallery(tmp_path / "other.db") as other:
        assert other.identify(unit(399), threshold=0.5).person is None
        assert other.identify(unit(3), threshold=0.5).person == "somebody else"


def test_a_removal_takes_the_cache_with_it(open_gallery, fill, unit, tmp_path):
    with fill(open_gallery()) as gallery:
        gallery.identify(unit(1), threshold=0.5)
    path = cache.cache_path(tmp_path / "gallery.db")
    assert path.is_file()
    with open_gallery() as gallery:
        gallery.remove("person 5")
        assert not path.exists()
    with open_gallery() as again:
        assert again.identify(unit(5), threshold=0.5).person is None


def test_a_reader_that_closes_late_does_not_bring_removed_codes_back(open_gallery, fill, unit, tmp_path):
    reader = fill(open_gallery())
    reader.identify(unit(1), threshold=0.5)
    with open_gallery() as other:
        other.remove("person 5")
    reader.close()
    path = cache.cache_path(tmp_path / "gallery.db")
    assert path.is_file()
    with open_gallery() as again:
        assert again.identify(unit(5), threshold=0.5).person is None
        assert len(again._live) == PEOPLE - 1


def test_rotation_and_restore_leave_no_old_cache(open_gallery, fill, unit, tmp_path):
    with fill(open_gallery()) as gallery:
        gallery.identify(unit(1), threshold=0.5)
        backup(gallery, tmp_path / "backup.db")
    path = cache.cache_path(tmp_path / "gallery.db")
    assert path.is_file()
    restore(tmp_path / "backup.db", tmp_path / "gallery.db")
    assert not path.exists()
    assert [file.name for file in tmp_path.iterdir() if ".part" in file.name] == []
    with open_gallery() as gallery:
        gallery.identify(unit(1), threshold=0.5)
    assert path.is_file()
    with open_gallery() as gallery:
        rotate_key(gallery, lambda: b"k" * 32)
        assert not path.exists()
        gallery.identify(unit(1), threshold=0.5)
    with open_gallery(key=lambda: b"k" * 32) as gallery:
        assert gallery.identify(unit(8), threshold=0.5).person == "person 8"


def test_an_encrypted_cache_holds_no_codes(open_gallery, fill, unit, tmp_path):
    with fill(open_gallery(key=lambda: b"k" * 32)) as gallery:
        gallery.identify(unit(1), threshold=0.5)
        codes = gallery._live._index.to_bytes()
    content = cache.cache_path(tmp_path / "gallery.db").read_bytes()
    assert len(content) > PEOPLE * 128
    places = np.linspace(1000, len(codes) - 100, 50).astype(int)
    assert not any(codes[place : place + 16] in content for place in places)


def test_a_cache_that_cannot_be_written_is_no_error(open_gallery, fill, unit, monkeypatch, tmp_path):
    gallery = fill(open_gallery())
    gallery.identify(unit(1), threshold=0.5)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("facekd.gallery.cache.os.open", full)
    gallery.close()
    assert not cache.cache_path(tmp_path / "gallery.db").exists()
