"""A process killed in the middle of a change leaves the gallery as it was before or after, never between."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from facekd.gallery import Gallery

WRITER = Path(__file__).with_name("killed_writer.py")
# The clone's own package, whether or not one is installed.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
BEFORE = {"Ada": [1, 2, 3], "Grace": [4]}
LIMITS = os.environ.get("FACEKD_TEST_WRITES", "6")
"""Places in the files at which writing stops; 60 for the long form, which hits every page."""

CHANGES = [
    ("enrol new", False, BEFORE, {**BEFORE, "Joan": [5, 6, 7]}),
    ("enrol more", True, BEFORE, {**BEFORE, "Ada": [1, 2, 3, 5, 6]}),
    ("remove", False, BEFORE, {"Grace": [4]}),
    ("remove", True, BEFORE, {"Grace": [4]}),
    ("rename", False, BEFORE, {"Grace": [4], "Joan": [1, 2, 3]}),
    ("rotate", False, BEFORE, BEFORE),
    ("rotate", True, BEFORE, BEFORE),
    ("check", False, BEFORE, BEFORE),
    ("backup", True, BEFORE, BEFORE),
    ("restore", False, {**BEFORE, "Joan": [5]}, BEFORE),
    ("cache write", False, BEFORE, BEFORE),
    ("cache write", True, BEFORE, BEFORE),
]
NAMES = [f"{operation}{' encrypted' if encrypted else ''}" for operation, encrypted, _, _ in CHANGES]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork and SIGKILL")


def children_of(mode: str, path: Path, operation: str, *options: str, encrypted: bool = False) -> list[dict]:
    """What became of each child; the last one was left alone."""
    environment = {**ENVIRONMENT, "ENCRYPTED": "1" if encrypted else ""}
    command = [sys.executable, str(WRITER), mode, str(path), operation, *options]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    children = [json.loads(line) for line in run.stdout.splitlines()]
    assert children[-1]["ended"] == "done", run.stderr
    assert len(children) > 3  # or nothing was tried
    return children


def check_states(children: list[dict], before: dict, after: dict) -> None:
    """Every child left the state before or the one after; a backup is whole or absent."""
    states = [child["after"] for child in children]
    assert all(state in (before, after) for state in states)
    assert states[-1] == after
    # Once a write came after the commit, every later one does: before…before, after…after.
    assert states == sorted(states, key=lambda state: state == after)
    assert all(child["backup"] in (None, before) for child in children)


@pytest.mark.parametrize(("operation", "encrypted", "before", "after"), CHANGES, ids=NAMES)
def test_killed_at_every_statement(tmp_path, operation, encrypted, before, after):
    children = children_of("statements", tmp_path / "gallery.db", operation, encrypted=encrypted)
    assert {child["ended"] for child in children[:-1]} == {"killed"}
    check_states(children, before, after)


@pytest.mark.parametrize(("operation", "encrypted", "before", "after"), CHANGES, ids=NAMES)
def test_killed_in_the_middle_of_writing_a_file(tmp_path, operation, encrypted, before, after):
    children = children_of("die", tmp_path / "gallery.db", operation, LIMITS, encrypted=encrypted)
    assert children[0]["ended"] == "killed"
    assert {child["ended"] for child in children} <= {"killed", "done"}
    check_states(children, before, after)


def test_an_import_killed_at_every_statement_is_whole_or_absent(tmp_path):
    children = children_of("statements", tmp_path / "gallery.db", "import")
    assert all(child["after"] in (BEFORE, {"Ada": [1, 2, 3]}) for child in children)
    assert children[-1]["after"] == BEFORE


def test_killed_at_random_moments(tmp_path):
    generator = random.Random(20261122)
    path = tmp_path / "gallery.db"
    enrolled = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, str(WRITER), "endless", str(path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            told = [next(writer.stdout)]
            # Those before are refused as already enrolled: the kill falls into writing, however slow the machine is.
            while int(told[-1]) <= enrolled:
                told.append(next(writer.stdout))
            time.sleep(generator.uniform(0.02, 0.3))
            writer.kill()
            told += writer.stdout.read().split()
        enrolled = max([enrolled, *map(int, told)])
        with Gallery.open(path) as gallery:
            people = gallery.people()
            assert {person.templates for person in people} <= {5}
            assert len(people) >= enrolled  # what was answered is there
            with gallery.store.reading():
                for _, templates in gallery.store.templates():
                    assert np.linalg.norm(templates, axis=1) == pytest.approx(1, abs=1e-5)
        # The next writer begins anew: names come again with the same vectors and are refused as already enrolled.
