"""A disk that fills up in the middle of a change leaves the gallery as it was before or after, and says what to do."""

from __future__ import annotations

import os

import pytest

from facekd.errors import GalleryError
from tests.gallery.test_gallery_killed import CHANGES, LIMITS, NAMES, check_states, children_of

ONLY_BEST_EFFORT = ("cache write",)
"""What may fail without a word: the next opening is slower, nothing else."""


@pytest.mark.skipif(os.name == "nt", reason="needs fork and limits on files")
@pytest.mark.parametrize(("operation", "encrypted", "before", "after"), CHANGES, ids=NAMES)
def test_no_room_in_the_middle_of_writing_a_file(tmp_path, operation, encrypted, before, after):
    children = children_of("full", tmp_path / "gallery.db", operation, LIMITS, encrypted=encrypted)
    assert {child["ended"] for child in children} <= {"refused", "done"}
    assert children[0]["ended"] == ("done" if operation in ONLY_BEST_EFFORT else "refused")
    check_states(children, before, after)
    # Who was told "done" has the change; who was told "refused" has not, unless it was kept and only the rest failed.
    assert all(child["after"] == after for child in children if child["ended"] == "done")


@pytest.mark.parametrize("key", [None, lambda: b"k" * 32], ids=["plain", "encrypted"])
def test_no_page_more(open_gallery, unit, key):
    gallery = open_gallery(key=key, dimension=512)
    ada, *joan = (unit(seed, dimension=512) for seed in range(21))  # 20 templates need three more pages
    gallery.enrol("Ada", [ada])
    sqlite = gallery.store.connection.sqlite
    begin = sqlite.execute("PRAGMA page_count").fetchone()[0]
    room = 0
    while not _enrolled_with(gallery, joan, begin + room):
        assert [person.name for person in gallery.people()] == ["Ada"]
        assert gallery.identify(ada, threshold=0.9).person == "Ada"
        assert gallery.identify(joan[0], threshold=0.9).person is None
        room += 1
    assert room > 0
    assert gallery.identify(joan[-1], threshold=0.9).person == "Joan"


def _enrolled_with(gallery, templates, pages):
    """Whether Joan could be enrolled in a file of so many pages."""
    gallery.store.connection.sqlite.execute(f"PRAGMA max_page_count = {pages}")
    try:
        gallery.enrol("Joan", templates)
    except GalleryError as error:
        if "disk is full" not in str(error):
            raise
        return False
    return True
