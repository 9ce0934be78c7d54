"""A connection whose file goes away, whose change is interrupted, or of which SQLite complains."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading

import pytest

from facekd.errors import GalleryError

on_posix = pytest.mark.skipif(os.name == "nt", reason="an open file can neither be moved nor replaced on Windows")


def _move(path, to):
    """Move a gallery away as people do: with whatever lies beside it."""
    to.mkdir()
    for part in path.parent.glob(path.name + "*"):
        part.rename(to / part.name)


def _left_behind(open_gallery, unit, tmp_path):
    """A gallery that is open while its file is moved into a folder beside."""
    door = open_gallery()
    door.enrol("Ada", [unit(1)])
    _move(tmp_path / "gallery.db", tmp_path / "old")
    return door


OPERATIONS = {
    "identify": lambda gallery, probe: gallery.identify(probe),
    "people": lambda gallery, probe: gallery.people(),
    "enrol": lambda gallery, probe: gallery.enrol("Grace", [probe]),
    "remove": lambda gallery, probe: gallery.remove("Ada"),
    "erase": lambda gallery, probe: gallery.erase_leftovers(),
}
every_operation = pytest.mark.parametrize("operate", OPERATIONS.values(), ids=OPERATIONS)


@on_posix
@every_operation
def test_a_gallery_whose_file_was_replaced_is_refused(open_gallery, unit, tmp_path, operate):
    door = _left_behind(open_gallery, unit, tmp_path)
    with open_gallery() as anew:
        anew.enrol("Joan", [unit(2)])
    with pytest.raises(GalleryError, match="replaced by another file since it was opened: open it again"):
        operate(door, unit(1))
    door.close()
    assert [person.name for person in open_gallery().people()] == ["Joan"]


@on_posix
@every_operation
def test_a_gallery_whose_file_is_gone_is_refused_until_it_is_back(open_gallery, unit, tmp_path, operate):
    door = _left_behind(open_gallery, unit, tmp_path)
    with pytest.raises(GalleryError, match="is gone since it was opened"):
        operate(door, unit(1))
    for part in (tmp_path / "old").iterdir():
        part.rename(tmp_path / part.name)
    operate(door, unit(1))


@on_posix
def test_a_file_replaced_while_a_change_waits_is_noticed(open_gallery, unit, tmp_path):
    door = open_gallery(timeout_s=60)
    other = sqlite3.connect(tmp_path / "gallery.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    def replace() -> None:
        _move(tmp_path / "gallery.db", tmp_path / "old")
        other.execute("COMMIT")

    threading.Timer(0.5, replace).start()
    with pytest.raises(GalleryError, match="is gone"):
        door.enrol("Ada", [unit(1)])
    other.close()


def test_a_program_may_change_its_folder(open_gallery, unit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    gallery = open_gallery(type(tmp_path)("gallery.db"))
    gallery.enrol("Ada", [unit(1)])
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert gallery.identify(unit(1)).person == "Ada"
    assert gallery.remove("Ada").erased


class Late(Exception):
    """What a service raises when a request takes too long."""


def _raise_late(*_: object) -> None:
    raise Late


@pytest.mark.skipif(os.name == "nt", reason="needs setitimer")
def test_a_signal_while_a_change_waits_leaves_no_transaction(open_gallery, unit, tmp_path):
    gallery = open_gallery(timeout_s=60)
    gallery.enrol("Ada", [unit(1)])
    other = sqlite3.connect(tmp_path / "gallery.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(1.0, other.execute, ["COMMIT"])

    def enrol() -> None:
        release.start()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        gallery.enrol("Grace", [unit(2)])

    before = signal.signal(signal.SIGALRM, _raise_late)
    try:
        with pytest.raises(Late):  # SQLite waits in one call: the handler runs when it has the lock
            enrol()
    finally:
        signal.signal(signal.SIGALRM, before)
    release.join()
    assert not gallery.store.connection.sqlite.in_transaction
    other.execute("BEGIN IMMEDIATE")
    other.execute("COMMIT")
    other.close()
    gallery.enrol("Joan", [unit(3)])
    assert [person.name for person in gallery.people()] == ["Ada", "Joan"]


def test_an_error_that_is_no_damage_does_not_cost_the_gallery(open_gallery):
    gallery = open_gallery()
    gallery.store.connection.sqlite.execute("BEGIN")
    with pytest.raises(GalleryError, match="error in facekd, please report it") as refusal:
        gallery.people()
    assert "restore" not in str(refusal.value)


@pytest.mark.parametrize(
    "damage", ["DROP TABLE meta", "ALTER TABLE meta RENAME COLUMN value TO worth"], ids=["no table", "no column"]
)
def test_contents_that_are_not_a_gallerys_call_for_a_backup(open_gallery, damage):
    gallery = open_gallery()
    gallery.store.connection.sqlite.execute(damage)
    with pytest.raises(GalleryError, match="restore a backup"):
        gallery.people()


@on_posix
def test_a_child_forked_while_a_thread_used_the_gallery_is_told_and_does_not_wait_for_that_thread(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1)])
    connection = gallery.store.connection
    process, connection._process = connection._process, -1  # what a forked child sees
    said = []

    def child():
        for operate in OPERATIONS.values():
            with pytest.raises(GalleryError) as told:
                operate(gallery, unit(1))
            said.append(str(told.value))
        gallery.close()

    with connection._lock:  # held by a thread that the child does not have
        only_thread = threading.Thread(target=child, daemon=True)
        only_thread.start()
        only_thread.join(30)
        assert not only_thread.is_alive()
    connection._process = process
    assert len(said) == len(OPERATIONS)
    assert all("opened before this process was forked" in text for text in said)
