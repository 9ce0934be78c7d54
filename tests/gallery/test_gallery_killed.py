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
pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork and SIGKILL")


def _children(path: Path, operation: str, *, encrypted: bool = False) -> list[dict]:
    environment = {**ENVIRONMENT, "ENCRYPTED": "1" if encrypted else ""}
    command = [sys.executable, str(WRITER), "statements", str(path), operation]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    children = [json.loads(line) for line in run.stdout.splitlines()]
    assert all(child["killed"] for child in children[:-1])
    assert not children[-1]["killed"]
    assert len(children) > 3  # or nothing was tried
    return children


@pytest.mark.parametrize(
    ("operation", "encrypted", "after"),
    [
        ("enrol new", False, {**BEFORE, "Joan": [5, 6, 7]}),
        ("enrol more", True, {**BEFORE, "Ada": [1, 2, 3, 5, 6]}),
        ("remove", False, {"Grace": [4]}),
        ("rename", False, {"Grace": [4], "Joan": [1, 2, 3]}),
    ],
)
def test_killed_at_every_statement(tmp_path, operation, encrypted, after):
    children = _children(tmp_path / "gallery.db", operation, encrypted=encrypted)
    states = [child["after"] for child in children]
    assert {json.dumps(state) for state in states} == {json.dumps(BEFORE), json.dumps(after)}
    assert states[-1] == after
    # Once a statement came after the commit, every later one does: before…before, after…after.
    assert states == sorted(states, key=lambda state: state == after)


def test_an_import_killed_at_every_statement_is_whole_or_absent(tmp_path):
    children = _children(tmp_path / "gallery.db", "import")
    states = {json.dumps(child["after"], sort_keys=True) for child in children}
    removed = {"Ada": [1, 2, 3]}
    assert states == {json.dumps(BEFORE, sort_keys=True), json.dumps(removed)}


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_key_rotation_killed_at_every_statement_leaves_one_of_the_keys(tmp_path, encrypted):
    children = _children(tmp_path / "gallery.db", "rotate", encrypted=encrypted)
    assert all(child["after"] == BEFORE for child in children)


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
            time.sleep(generator.uniform(0.02, 0.3))
            writer.kill()
            told = writer.stdout.read().split()
        enrolled = max([enrolled, *map(int, told)])
        with Gallery.open(path) as gallery:
            people = gallery.people()
            assert {person.templates for person in people} <= {5}
            assert len(people) >= enrolled  # what was answered is there
            with gallery.store.reading():
                for _, templates in gallery.store.templates():
                    assert np.linalg.norm(templates, axis=1) == pytest.approx(1, abs=1e-5)
        # The next writer begins anew: names come again with the same vectors and are refused as already enrolled.
    assert enrolled > 0
