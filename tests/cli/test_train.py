"""`facekd train` around the loop: what it leaves in the run's folder, and what it refuses before it reads any data."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest

pytest.importorskip("torch")

from facekd.cli import run
from facekd.cli.train import STAGES
from facekd.engine.settings import Section, TrainingSettings
from facekd.errors import ConfigError
from facekd.recognition.preprocessing import ALIGNED_CROP
from facekd.zoo import Preprocessing
from tests.engine.ones_task import OnesTask


class Data(Section):
    folders: tuple[Path, ...] = ()


class Recipe(Section):
    kind: Literal["mask"]
    training: TrainingSettings
    data: Data = Data()
    preprocessing: Preprocessing = ALIGNED_CROP


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that a task was built for, in the place of the mask head's stage."""
    found: list[Recipe] = []
    stage = ModuleType("tiny_stage")
    stage.Recipe = Recipe  # type: ignore[attr-defined]
    stage.build_task = lambda recipe: found.append(recipe) or OnesTask()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tiny_stage", stage)
    monkeypatch.setitem(STAGES, "mask", "tiny_stage")
    monkeypatch.setattr("facekd.engine.journal.draw_curves", lambda *_: None)
    return found


def test_what_was_trained_stands_in_the_folder_and_what_differs_is_said(
    built: list[Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text('kind = "mask"\ntraining = {steps = 2, learning_rate = 0.5}\ndata = {folders = ["here"]}\n')
    words = ["train", str(recipe), "--run", str(tmp_path / "run"), "--threads", "1"]

    def said(*more: str) -> str:
        capsys.readouterr()
        assert run([*words, *more]) == 0
        return " ".join(capsys.readouterr().err.split())

    assert "in this run" not in said("--minutes", "98", "--set", "training.ema_decay=0.5")
    (entry,) = json.loads((tmp_path / "run" / "recipe.json").read_text())
    training = entry["recipe"]["training"]
    assert (training["minutes"], training["ema_decay"], training["learning_rate"]) == (98.0, 0.5, 0.5)
    assert tomllib.loads((tmp_path / "run" / "best.toml").read_text())["card"]["data"] == "here"
    resumed = said("--resume", "--set", "training.steps=3")
    for change in (
        "training.steps is 3 now, was 2",
        "minutes is None now, was 98.0",
        "ema_decay is 0.999 now, was 0.5",
    ):
        assert change in resumed
    assert resumed.count("in this run") == 3
    (tmp_path / "run" / "recipe.json").unlink()  # as older versions left it
    assert "not known" in said("--resume", "--set", "training.steps=4")


def test_a_folder_that_does_not_fit_is_refused_before_the_data_are_read(
    built: list[Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text('kind = "mask"\ntraining = {steps = 1, learning_rate = 0.5}\n')
    words = ["train", str(recipe), "--threads", "1", "--run"]
    assert run([*words, str(tmp_path / "run")]) == 0
    assert len(built) == 1
    for folder, more, text in (
        ("mistyped", ["--resume"], "holds no checkpoint.pt to go on from"),
        ("run", [], "holds a run already"),
        ("run", ["--resume", "--set", "training.seed=7"], "seed = 0, not 7"),
    ):
        capsys.readouterr()
        assert run([*words, str(tmp_path / folder), *more]) == ConfigError.exit_code
        assert text in " ".join(capsys.readouterr().err.split())
    assert len(built) == 1
    assert not (tmp_path / "mistyped").exists()
