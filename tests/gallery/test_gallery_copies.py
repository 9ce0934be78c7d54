"""A restore over a gallery that is damaged anywhere: it succeeds, and what was there is kept beside it."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from facekd.gallery.copies import backup, restore
from facekd.gallery.maintenance import check, rotate_key
from facekd.gallery.schema import PAGE_SIZE

PAGES = 11
"""Of the smallest gallery: one a table or index, and one for the schema."""


def _old() -> bytes:
    return b"k" * 32


def _new() -> bytes:
    return b"n" * 32


@pytest.fixture
def restore_over(open_gallery, unit, tmp_path):
    """`restore_over(damage)`: a backup of Ada's gallery over the same one with Joan, changed by `damage`, closed."""

    def run(damage, **options):
        path = tmp_path / "gallery.db"
        with open_gallery(**options) as gallery:
            gallery.enrol("Ada", [unit(1)])
            backup(gallery, tmp_path / "backup.db")
            gallery.enrol("Joan", [unit(2)])
        content = bytearray(path.read_bytes())
        damage(content)
        path.write_bytes(content)
        restored = restore(tmp_path / "backup.db", path, **options)
        with open_gallery(**options) as gallery:
            assert check(gallery).problems == ()
            assert [person.name for person in gallery.people()] == ["Ada"]
        return restored.damaged, bytes(content)

    return run


@pytest.mark.parametrize("page", range(PAGES))
def test_a_gallery_damaged_on_any_page_is_replaced_and_kept(restore_over, page):
    def damage(content):
        assert len(content) == PAGES * PAGE_SIZE  # or a page is not tried
        start = page * PAGE_SIZE or 100  # without the file's header it is no gallery, and left alone
        content[start : (page + 1) * PAGE_SIZE] = b"\xff" * ((page + 1) * PAGE_SIZE - start)

    kept, content = restore_over(damage)
    assert kept.name.startswith("gallery.db.damaged-")
    assert kept.read_bytes()[100:] == content[100:]  # SQLite notes in the header that the copy has no WAL
    assert kept.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("before", "after"), [(b"tablepeoplepeople", b"table\xffeoplepeople"), (b"meta (key ", b"meta (kez ")], ids=ascii
)
def test_a_gallery_with_a_damaged_schema_is_replaced_and_kept(restore_over, before, after):
    def damage(content):
        start = content.index(before)
        content[start : start + len(before)] = after

    kept, content = restore_over(damage)
    assert kept.read_bytes() == content


@pytest.mark.parametrize("key", [None, _old])
def test_a_single_damaged_record_is_enough(restore_over, tmp_path, key):
    def damage(content):
        with closing(sqlite3.connect(tmp_path / "gallery.db")) as sqlite:
            (record,) = sqlite.execute("SELECT template FROM templates WHERE id = 2").fetchone()
        content[content.index(record)] ^= 1

    assert restore_over(damage, key=key)[0] is not None


def test_a_whole_gallery_is_not_kept(restore_over):
    assert restore_over(lambda content: None)[0] is None


def test_a_gallery_whole_but_for_its_key_is_not_kept(open_gallery, unit, tmp_path):
    gallery = open_gallery(key=_old)
    gallery.enrol("Ada", [unit(1)])
    backup(gallery, tmp_path / "backup.db")
    rotate_key(gallery, _new)
    assert restore(tmp_path / "backup.db", tmp_path / "gallery.db", key=_old).damaged is None
    assert np.allclose(open_gallery(key=_old).templates("Ada")[0].embedding, unit(1))


def test_whoever_has_a_gallery_with_a_damaged_record_open_goes_on(open_gallery, unit, tmp_path):
    door = open_gallery()
    door.enrol("Ada", [unit(1)])
    backup(door, tmp_path / "backup.db")
    door.enrol("Joan", [unit(2)])
    door.store.connection.sqlite.execute("UPDATE templates SET template = zeroblob(516) WHERE id = 2")
    assert restore(tmp_path / "backup.db", tmp_path / "gallery.db").damaged is not None
    assert door.identify(unit(1)).person == "Ada"
