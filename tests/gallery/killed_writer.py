"""Run by test_gallery_killed.py and test_gallery_disk_full.py, not collected: a change that does not get to its end.

Usage: killed_writer.py statements GALLERY OPERATION       killed by SIGKILL at each statement
       killed_writer.py die GALLERY OPERATION LIMITS       killed in the middle of writing a file
       killed_writer.py full GALLERY OPERATION LIMITS      no more room in the middle of writing a file
       killed_writer.py endless GALLERY                    enrols for ever; prints each name once it is enrolled

All but the last print one JSON object for each child process that tried the change on a copy of the gallery. Galleries
are "large" from the second template on, so that every change has an index on disk to care for.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from facekd.errors import FacekdError
from facekd.gallery import Gallery, cache, live
from facekd.gallery.copies import backup, restore
from facekd.gallery.maintenance import check, rotate_key

CONTRACT = "0123456789abcdef"
DIMENSION = 128
REFUSED = 3
ENDS = {0: "done", REFUSED: "refused"}

live.FLAT_UP_TO = 1
live.SAVE_AFTER = 0
cache.PIECE_ROWS = 2


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def open_gallery(path: Path) -> Gallery:
    key = (lambda: b"k" * 32) if os.environ.get("ENCRYPTED") else None
    gallery = Gallery.open(path, contract=CONTRACT, dimension=DIMENSION, key=key)
    # SIGKILL leaves the operating system's buffers alone: only a power cut would need the disk to keep up.
    gallery.store.connection.sqlite.execute("PRAGMA synchronous = OFF")
    return gallery


def prepare(path: Path, operation: str) -> None:
    path.parent.mkdir()
    with open_gallery(path) as gallery:
        gallery.enrol("Ada", [unit(1), unit(2), unit(3)])
        gallery.enrol("Grace", [unit(4)])
        gallery.export(path.with_name("export.zip"))
        if operation == "restore":
            backup(gallery, path.with_name("backup.db"))
            gallery.enrol("Joan", [unit(5)])
        gallery.identify(unit(4), threshold=0.9)
    if operation == "cache write":
        cache.drop(path)


def change(gallery: Gallery, operation: str) -> None:
    folder = gallery.path.parent
    if operation == "enrol new":
        gallery.enrol("Joan", [unit(5), unit(6), unit(7)])
    elif operation == "enrol more":
        gallery.enrol("Ada", [unit(5), unit(6)])
    elif operation == "remove":
        gallery.remove("Ada")
    elif operation == "rename":
        gallery.rename("Ada", "Joan")
    elif operation == "import":
        gallery.remove("Grace")
        gallery.import_(folder / "export.zip", merge=True)
    elif operation == "rotate":
        rotate_key(gallery, lambda: b"n" * 32)
    elif operation == "check":
        check(gallery)
    elif operation == "backup":
        backup(gallery, folder / "new-backup.db")
    elif operation == "restore":
        restore(folder / "backup.db", gallery.path)
    elif operation == "cache write":
        gallery.identify(unit(4), threshold=0.9)
        gallery.close()
    else:
        raise SystemExit(f"unknown operation {operation}")


def state(path: Path) -> dict[str, list[int]]:
    """People with their templates, each named by the seed it was made from (0: none of them)."""
    seeds = {unit(seed).tobytes(): seed for seed in range(1, 10)}
    for key in (None, lambda: b"k" * 32, lambda: b"n" * 32):
        try:
            with Gallery.open(path, contract=CONTRACT, dimension=DIMENSION, key=key) as gallery:
                found = {
                    person.name: [seeds.get(t.embedding.tobytes(), 0) for t in gallery.templates(person.name)]
                    for person in gallery.people()
                }
                for seed in range(1, 8):
                    owners = [name for name, templates in found.items() if seed in templates]
                    assert gallery.identify(unit(seed), threshold=0.9).person == (owners[0] if owners else None)
                problems = check(gallery).problems
                assert problems == (), problems
                return found
        except FacekdError as error:
            if "key" not in str(error) and "encrypted" not in str(error):
                raise
    raise AssertionError("no key opens the gallery")


def attempt(path: Path, operation: str, arrange: Callable[[Gallery], None]) -> str:
    """Try the change on a copy of the gallery in a child process, and print how that ended and what is there after."""
    copy = path.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path.parent / "prepared", copy)
    child = os.fork()
    if child == 0:
        try:
            gallery = open_gallery(copy / path.name)
            arrange(gallery)
            change(gallery, operation)
            os._exit(0)
        except FacekdError:
            os._exit(REFUSED)
        except BaseException:
            traceback.print_exc()
            os._exit(4)
    _, status = os.waitpid(child, 0)
    ended = "killed" if os.WIFSIGNALED(status) else ENDS.get(os.WEXITSTATUS(status), "failed")
    made = copy / "new-backup.db"
    answer = {
        "ended": ended,
        "after": state(copy / path.name),
        "backup": state(made) if made.exists() else None,
        "largest": max(file.stat().st_size for file in copy.iterdir()),
    }
    print(json.dumps(answer), flush=True)
    return ended


def statements(path: Path, operation: str) -> None:
    # Rotating and restoring take many statements, most of them of a VACUUM: every third one is enough.
    stride = 3 if operation in ("rotate", "restore") else 1
    number = 1
    while True:

        def arrange(gallery: Gallery, left: int = number) -> None:
            def count(_: str) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            def traced(*arguments: object, **options: object) -> sqlite3.Connection:
                connection = connect(*arguments, **options)
                connection.set_trace_callback(count)
                return connection

            gallery.store.connection.sqlite.set_trace_callback(count)
            connect, sqlite3.connect = sqlite3.connect, traced  # a backup's and a restored gallery's connections too

        if attempt(path, operation, arrange) != "killed":
            return
        number += stride


def writes(path: Path, operation: str, limits: int, *, die: bool) -> None:
    """No file may grow beyond a limit, or be written beyond it: writing there fails, or kills by SIGXFSZ."""
    largest = sum(file.stat().st_size for file in (path.parent / "prepared").glob("*.db"))
    for number in range(limits):
        limit = number * largest // limits + 100

        def arrange(_: Gallery, limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if die else signal.SIG_IGN)
            for kind, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, limit)):
                resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))

        attempt(path, operation, arrange)
    attempt(path, operation, lambda _: None)


def endless(path: Path) -> None:
    with open_gallery(path) as gallery:
        print("ready", flush=True)
        number = 0
        while True:
            number += 1
            gallery.enrol(f"person {number}", [unit(10 * number + template) for template in range(5)])
            print(number, flush=True)


if __name__ == "__main__":
    gallery_path = Path(sys.argv[2])
    if sys.argv[1] == "endless":
        endless(gallery_path)
    else:
        prepare(gallery_path.parent / "prepared" / gallery_path.name, sys.argv[3])
        if sys.argv[1] == "statements":
            statements(gallery_path, sys.argv[3])
        else:
            writes(gallery_path, sys.argv[3], int(sys.argv[4]), die=sys.argv[1] == "die")
