"""Several processes enrol, remove and identify in one gallery at once: no update is lost, no read is torn."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from facekd.gallery import Gallery
from facekd.gallery.maintenance import check

CONTRACT = "0123456789abcdef"
DIMENSION = 128
SECONDS = float(os.environ.get("FACEKD_TEST_SECONDS", "3"))
"""60 for the long form."""


def _unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _open(path: Path) -> Gallery:
    return Gallery.open(path, contract=CONTRACT, dimension=DIMENSION, key=lambda: b"k" * 32, timeout_s=30)


def _write(path: Path, writer: int, results: multiprocessing.Queue) -> None:
    try:
        kept = []
        with _open(path) as gallery:
            end = time.monotonic() + SECONDS
            number = 0
            while time.monotonic() < end:
                number += 1
                name = f"{writer}/{number}"
                seed = 1_000_000 * writer + 10 * number
                gallery.enrol(name, [_unit(seed), _unit(seed + 1)])
                if number % 3 == 0:
                    gallery.rename(name, name + " renamed")
                    name += " renamed"
                if number % 4 == 0:
                    gallery.remove(name)
                else:
                    kept.append((name, seed))
                assert kept == [] or gallery.identify(_unit(kept[-1][1]), threshold=0.9).person == kept[-1][0]
        results.put(("kept", kept))
    except BaseException:
        results.put(("error", traceback.format_exc()))


def _read(path: Path, results: multiprocessing.Queue) -> None:
    try:
        answers = 0
        with _open(path) as gallery:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                for person in gallery.people():
                    assert person.templates == 2, person  # a person appears with both templates or not at all
                people = gallery.people()
                if people:
                    try:
                        probe = gallery.templates(people[-1].name)[1].embedding
                    except Exception as error:
                        if "is enrolled" not in str(error):
                            raise
                        continue  # removed between the two questions
                    decision = gallery.identify(probe, threshold=0.9)
                    assert decision.outcome in ("match", "nobody")
                    answers += decision.outcome == "match"
        results.put(("answers", answers))
    except BaseException:
        results.put(("error", traceback.format_exc()))


def _create(path: Path, number: int, start: float, results: multiprocessing.Queue) -> None:
    try:
        time.sleep(max(0.0, start - time.time()))
        with _open(path) as gallery:
            gallery.enrol(f"person {number}", [_unit(number)])
        results.put(("done", number))
    except BaseException:
        results.put(("error", traceback.format_exc()))


@pytest.mark.skipif(os.name == "nt", reason="forkserver")
def test_processes_that_make_the_same_gallery_at_once(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["facekd.gallery"])
    results = context.Queue()
    for turn in range(3):
        path = tmp_path / f"{turn}.db"
        start = time.time() + 1.0
        processes = [context.Process(target=_create, args=(path, number, start, results)) for number in range(4)]
        for process in processes:
            process.start()
        got = [results.get(timeout=60) for _ in processes]
        for process in processes:
            process.join()
        assert [text for kind, text in got if kind == "error"] == []
        with _open(path) as gallery:
            assert {person.name for person in gallery.people()} == {f"person {number}" for number in range(4)}


@pytest.mark.skipif(os.name == "nt", reason="times the children by fork")
def test_two_writers_and_a_reader(tmp_path):
    context = multiprocessing.get_context("forkserver")
    path = tmp_path / "gallery.db"
    _open(path).close()
    results = context.Queue()
    processes = [
        context.Process(target=_write, args=(path, 1, results)),
        context.Process(target=_write, args=(path, 2, results)),
        context.Process(target=_read, args=(path, results)),
    ]
    for process in processes:
        process.start()
    got = [results.get(timeout=SECONDS + 60) for _ in processes]
    for process in processes:
        process.join()
    errors = [text for kind, text in got if kind == "error"]
    assert not errors, "\n".join(errors)
    kept = dict(entry for kind, entries in got if kind == "kept" for entry in entries)
    assert len(kept) > 4
    assert next(count for kind, count in got if kind == "answers") > 0
    with _open(path) as gallery:
        assert {person.name for person in gallery.people()} == set(kept)
        for name, seed in kept.items():
            assert np.array_equal(gallery.templates(name)[0].embedding, _unit(seed))
        assert check(gallery).problems == ()


def test_a_gallery_does_not_cross_a_fork(open_gallery):
    from facekd.errors import GalleryError

    gallery = open_gallery()
    gallery.store.connection._process = -1  # what a forked child sees
    with pytest.raises(GalleryError, match="forked"):
        gallery.people()


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_a_forked_process_searches():
    """GNU OpenMP's threads, which a search before the fork has started, are not there after it."""
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": str(here.parents[2])}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, str(here.with_name("forked_search.py"))]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout.split()) == (0, ["flat", "quantised"] * 2), run.stderr


def test_a_writer_that_cannot_wait_any_longer_says_so(open_gallery, unit):
    from facekd.errors import GalleryError

    busy, waiting = open_gallery(), open_gallery(timeout_s=0.05)
    with busy.store.writing(), pytest.raises(GalleryError, match="another process is writing"):
        waiting.enrol("Ada", [unit(1)])
    waiting.enrol("Ada", [unit(1)])
