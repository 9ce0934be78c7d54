"""Galleries beyond the flat limit: the same answers, and a cache that saves reading every template."""

import numpy as np
import pytest

from facekd.gallery import NewTemplate, cache
from facekd.gallery.copies import backup, restore
from facekd.gallery.maintenance import check, rotate_key
from facekd.gallery.quantised import QuantisedIndex
from facekd.gallery.store import Store

PEOPLE = 400


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch):
    monkeypatch.setattr("facekd.gallery.live.FLAT_UP_TO", 300)
    monkeypatch.setattr("facekd.gallery.cache.PIECE_ROWS", 150)


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
        lambda path: path.write_bytes(path.read_bytes().replace(b'"rows": 400', b'"rows": 300')),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"erased": 4', b'"erased": 9')),
    ],
    ids=["empty", "other", "truncated", "altered", "another change", "fewer rows", "from later"],
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


def _code(gallery, number):
    """The code of a template, as the index in memory holds it."""
    index = gallery._live._index
    (row,) = np.flatnonzero(index.ids == number)
    return index.codes[row].tobytes()


@pytest.mark.parametrize("key", [None, lambda: b"k" * 32], ids=["plain", "encrypted"])
def test_the_cache_outlives_removals_but_not_what_was_removed(open_gallery, fill, unit, reads, tmp_path, key):
    with fill(open_gallery(key=key)) as gallery:
        gallery.identify(unit(1), threshold=0.5)
        codes = {number: _code(gallery, number + 1) for number in (5, 6, 399)}
    path = cache.cache_path(tmp_path / "gallery.db")
    size = path.stat().st_size
    with open_gallery(key=key) as gallery:
        assert gallery.remove("person 5").erased
        assert gallery.remove("person 399").erased
    assert path.stat().st_size == size
    content = path.read_bytes()
    assert codes[5] not in content
    assert codes[399] not in content
    assert (codes[6] in content) == (key is None)
    with open_gallery(key=key) as again:
        assert again.identify(unit(5), threshold=0.5).person is None
        assert again.identify(unit(6), threshold=0.5).person == "person 6"
        assert len(again._live) == PEOPLE - 2
    assert len(reads) == 1


def test_few_changes_do_not_write_the_cache_anew_and_many_do(open_gallery, fill, unit, reads, tmp_path, monkeypatch):
    monkeypatch.setattr("facekd.gallery.live.SAVE_AFTER", 3)
    with fill(open_gallery()) as gallery:
        gallery.identify(unit(1), threshold=0.5)
    path = cache.cache_path(tmp_path / "gallery.db")
    written = path.stat().st_ino
    with open_gallery() as gallery:
        gallery.enrol("late", [unit(9000)])
        gallery.remove("person 5")
        gallery.identify(unit(1), threshold=0.5)
    assert path.stat().st_ino == written
    with open_gallery() as gallery:
        gallery.enrol("later", [unit(9001), unit(9002)])
        gallery.identify(unit(1), threshold=0.5)
    assert path.stat().st_ino != written
    with open_gallery() as again:
        assert again.identify(unit(9001), threshold=0.5).person == "later"
        assert len(again._live) == PEOPLE + 2
    assert len(reads) == 1


def test_the_check_erases_what_a_killed_removal_left(open_gallery, fill, unit, tmp_path, monkeypatch):
    with fill(open_gallery()) as gallery:
        gallery.identify(unit(1), threshold=0.5)
        code = _code(gallery, 6)
    path = cache.cache_path(tmp_path / "gallery.db")
    with open_gallery() as gallery, monkeypatch.context() as killed:
        killed.setattr(Store, "erase_leftovers", lambda self: False)
        gallery.remove("person 5")
    part = path.with_name(path.name + ".part")
    part.write_bytes(code)
    assert code in path.read_bytes()
    with open_gallery() as gallery:
        assert gallery.identify(unit(5), threshold=0.5).person is None
        assert check(gallery).problems == ()
    assert code not in path.read_bytes()
    assert not part.exists()


@pytest.mark.parametrize("damage", [b"", b"torn" * 300], ids=["header", "piece"])
def test_a_cache_that_cannot_be_erased_from_is_deleted(open_gallery, fill, unit, tmp_path, damage):
    with fill(open_gallery()) as gallery:
        gallery.identify(unit(1), threshold=0.5)
    path = cache.cache_path(tmp_path / "gallery.db")
    content = path.read_bytes()
    path.write_bytes(content[: -len(damage)] + damage if damage else b"?" + content[1:])
    with open_gallery() as gallery:
        assert gallery.remove("person 399").erased
    assert not path.exists()


def test_a_removal_that_cannot_reach_the_cache_says_so(open_gallery, fill, unit, monkeypatch):
    with fill(open_gallery()) as gallery:
        gallery.identify(unit(1), threshold=0.5)

    def refuse(*arguments, **options):
        raise OSError(5, "Input/output error")

    with open_gallery() as gallery, monkeypatch.context() as broken:
        broken.setattr("facekd.gallery.cache.os.fsync", refuse)
        broken.setattr("pathlib.Path.unlink", refuse)
        assert not gallery.remove("person 5").erased
    with open_gallery() as gallery:
        assert gallery.identify(unit(5), threshold=0.5).person is None
        assert gallery.erase_leftovers()


def test_a_reader_that_closes_late_does_not_bring_removed_codes_back(open_gallery, fill, unit, tmp_path):
    reader = fill(open_gallery())
    reader.identify(unit(1), threshold=0.5)
    code = _code(reader, 6)
    with open_gallery() as other:
        other.remove("person 5")
    reader.close()
    path = cache.cache_path(tmp_path / "gallery.db")
    assert path.is_file()
    assert code not in path.read_bytes()
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
        codes = gallery._live._index.codes.tobytes()
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
