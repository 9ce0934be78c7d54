"""A stolen gallery without the key yields no template."""

import numpy as np
import pytest

from facekd.errors import GalleryError
from facekd.gallery.maintenance import backup, check, is_encrypted, restore, rotate_key
from facekd.gallery.policy import EnrolmentPolicy


def _old():
    return b"o" * 32


def _new():
    return b"n" * 32


def _leaks(folder, vectors):
    """Names of the files that hold a piece of a template as float32, float16 or eight-bit codes."""
    found = set()
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        for vector in vectors:
            low, high = vector.min(), vector.max()
            codes = np.round((vector - low) / (high - low) * 255).astype(np.uint8)
            forms = (vector.astype(kind) for kind in ("<f4", ">f4", "<f2", ">f2", "<f8"))
            for form in (*forms, codes):
                pieces = (form[start : start + 16].tobytes() for start in range(0, len(form), 16))
                if any(piece in content for piece in pieces):
                    found.add(path.name)
    return found


@pytest.fixture
def vectors(unit):
    return [unit(seed) for seed in range(1, 9)]


def test_the_search_for_leaks_finds_them_in_a_plain_gallery(open_gallery, vectors, tmp_path):
    gallery = open_gallery()
    gallery.enrol("Ada", vectors)
    assert _leaks(tmp_path, vectors) >= {"gallery.db-wal"}
    gallery.close()
    assert _leaks(tmp_path, vectors) == {"gallery.db"}


def test_no_file_of_an_encrypted_gallery_holds_a_template(open_gallery, make_face, vectors, tmp_path):
    crop = np.random.default_rng(5).integers(0, 256, (112, 112, 3), np.uint8)
    gallery = open_gallery(key=_old)
    gallery.enrol("Ada", [make_face(v, crop=crop) for v in vectors], policy=EnrolmentPolicy(keep_crops=True))
    assert gallery.identify(vectors[0]).person == "Ada"
    backup(gallery, tmp_path / "backup.db")
    assert _leaks(tmp_path, vectors) == set()
    gallery.close()
    assert _leaks(tmp_path, vectors) == set()
    for path in tmp_path.iterdir():  # nor a crop, as pixels or as a picture file
        assert crop[50].tobytes() not in path.read_bytes()
        assert b"\x89PNG\r\n" not in path.read_bytes()
    assert is_encrypted(tmp_path / "gallery.db")


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
