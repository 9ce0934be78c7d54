"""Run by test_gallery_killed.py, not collected: dies by SIGKILL at a chosen statement of a change.

Usage: killed_writer.py statements GALLERY OPERATION        one child per statement; prints one JSON object a child
       killed_writer.py endless GALLERY                     enrols for ever; prints each name once it is enrolled
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

from facekd.gallery import Gallery

CONTRACT = "0123456789abcdef"
DIMENSION = 128


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def open_gallery(path: Path) -> Gallery:
    key = (lambda: b"k" * 32) if os.environ.get("ENCRYPTED") else None
    gallery = Gallery.open(path, contract=CONTRACT, dimension=DIMENSION, key=key)
    # SIGKILL leaves the operating system's buffers alone: only a power cut would need the disk to keep up.
    gallery.store.connection.sqlite.execute("PRAGMA synchronous = OFF")
    return gallery


def prepare(path: Path) -> None:
    with open_gallery(path) as gallery:
        gallery.enrol("Ada", [unit(1), unit(2), unit(3)])
        gallery.enrol("Grace", [unit(4)])
        gallery.export(path.parent / "export.zip")


def change(gallery: Gallery, operation: str, folder: Path) -> None:
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
        from facekd.gallery.maintenance import rotate_key

        rotate_key(gallery, lambda: b"n" * 32)
    else:
        raise SystemExit(f"unknown operation {operation}")


def state(path: Path) -> dict[str, list[int]]:
    """People with their templates, each named by the seed it was made from (0: none of them)."""
    seeds = {unit(seed).tobytes(): seed for seed in range(1, 10)}
    for key in (None, lambda: b"k" * 32, lambda: b"n" * 32):
        try:
            with Gallery.open(path, contract=CONTRACT, dimension=DIMENSION, key=key) as gallery:
                assert gallery.store.connection.sqlite.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
                found = {
                    person.name: [seeds.get(t.embedding.tobytes(), 0) for t in gallery.templates(person.name)]
                    for person in gallery.people()
                }
                for name, templates in found.items():
                    assert gallery.identify(unit(templates[0]), threshold=0.9).person == name
                return found
        except Exception as error:
            if "key" not in str(error) and "encrypted" not in str(error):
                raise
    raise AssertionError("no key opens the gallery")


def statements(path: Path, operation: str) -> None:
    prepare(path)
    before = state(path)
    # A rotation has many statements, most of them of the VACUUM that follows it: every third one is enough.
    stride = 3 if operation == "rotate" else 1
    number = 1 - stride
    while True:
        number += stride
        copy = path.parent / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        shutil.copy(path, copy / path.name)
        child = os.fork()
        if child == 0:
            gallery = open_gallery(copy / path.name)
            left = number

            def count(_: str) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            gallery.store.connection.sqlite.set_trace_callback(count)
            change(gallery, operation, path.parent)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        print(json.dumps({"killed": killed, "before": before, "after": state(copy / path.name)}), flush=True)
        if not killed:
            return


def endless(path: Path) -> None:
    with open_gallery(path) as gallery:
        print("ready", flush=True)
        number = 0
        while True:
            number += 1
            gallery.enrol(f"person {number}", [unit(10 * number + template) for template in range(5)])
            print(number, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "statements":
        statements(Path(sys.argv[2]), sys.argv[3])
    else:
        endless(Path(sys.argv[2]))
