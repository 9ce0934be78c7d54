"""docs/gallery.md says what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from facekd.gallery.decision import ACCESS_FPIR, MIN_MARGIN, SURE_OF_MASK, VERIFY_FMR, Decision
from facekd.gallery.door import DoorPolicy
from facekd.gallery.policy import REASONS, WARNINGS, EnrolmentPolicy

DOCS = Path(__file__).resolve().parents[2] / "docs"
README = DOCS.parent / "README.md"


@pytest.fixture(scope="module")
def page():
    return (DOCS / "gallery.md").read_text(encoding="utf-8")


def _first_cells(page, heading):
    table = page[page.index(heading) :].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {code for cell in cells for code in re.findall(r"`([^`]+)`", cell)}


def test_every_code_is_documented_and_no_other(page):
    assert _first_cells(page, "| refused as |") == set(REASONS)
    assert _first_cells(page, "| enrolled, but warned") == set(WARNINGS)


def test_every_field_of_a_decision_is_documented(page):
    fields = {field.name for field in dataclasses.fields(Decision)} - {"best"}
    assert _first_cells(page, "| | |\n| --- | --- |\n| `outcome`") == fields


def test_the_numbers_are_those_of_the_code(page):
    policy, door = EnrolmentPolicy(), DoorPolicy()
    assert f"under {policy.min_face_px:.0f} px" in page
    assert f"has {policy.max_templates} templates" in page
    assert policy.same_person_fmr == 1e-4
    assert policy.background == 0.25
    assert (ACCESS_FPIR, VERIFY_FMR, MIN_MARGIN, SURE_OF_MASK) == (0.001, 0.0001, 0.05, 0.6)
    assert (door.agreeing_frames, door.agree_within_s, door.attempt_s, door.cool_down_s) == (3, 4.0, 8.0, 5.0)
    assert (door.agree_over_s, door.lost_after_s) == (0.5, 1.0)
    assert (door.failures, door.failure_window_s, door.lock_s) == (5, 60.0, 30.0)


def test_the_readmes_example_enrols_nobody_from_a_photograph_of_two(
    open_gallery, calibration, unit, make_face, make_pipeline, monkeypatch, tmp_path, capsys
):
    """Whoever stood beside the person would open the door under the person's name."""

    class Face(type(make_face(unit(1)))):
        score = 0.99

    two = [Face(unit(1, dimension=512)), Face(unit(2, dimension=512))]
    pipeline = make_pipeline({"facekd/demo_data/obama.jpg": two, "facekd/demo_data/obama2.jpg": two[:1]})
    pipeline.embedder = SimpleNamespace(contract=calibration.contract)
    monkeypatch.setattr("facekd.FacePipeline", lambda: pipeline)
    monkeypatch.setattr("facekd.gallery.gallery.shipped_calibration", lambda contract: calibration)
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").split("\n## Python\n")[1].split("\n## ")[0]
    exec(compile(section.split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
    assert "several-faces" in capsys.readouterr().out
    assert open_gallery(tmp_path / "people.db", dimension=512).people() == []


def test_every_command_and_option_that_is_named_exists(page):
    commands = (DOCS / "cli.md").read_text(encoding="utf-8")  # which a test of its own compares with the program
    for name in ("gallery.md", "threat-model.md"):
        text = (DOCS / name).read_text(encoding="utf-8")
        for option in set(re.findall(r"--[a-z][a-z-]+", text)):
            assert f"`{option}" in commands, option
        for command in set(re.findall(r"`facekd ((?:gallery|people|bench) [a-z-]+|[a-z]+)", text)):
            assert command in {"people", "gallery"} or f"## facekd {command}" in commands, command
