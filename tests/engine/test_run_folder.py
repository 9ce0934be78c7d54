"""A run's folder says what was trained, and what does not fit it is refused before any data are read."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from facekd.cli.train import stage_of
from facekd.distill.settings import DistillSettings
from facekd.distill.task import DistilledTask
from facekd.distill.teachers import TorchTeacher
from facekd.engine.loop import TrainingDiverged, fit
from facekd.engine.ranks import refuse_undivided_batches
from facekd.engine.run_folder import RECIPE, check_folder, recipe_changes, write_recipe
from facekd.engine.settings import Section, TrainingSettings, parse_recipe, read_toml
from facekd.errors import ConfigError, ModelError
from facekd.recognition.train import EmbedderTask
from tests.engine.ones_task import OnesTask

RECIPES = Path(__file__).resolve().parents[2] / "facekd" / "recipes"


class Part(Section):
    method: str = "cosine"
    weight: float = 1.0


class Recipe(Section):
    training: TrainingSettings = TrainingSettings(steps=4, learning_rate=0.1, threads=1)
    folders: tuple[Path, ...] = (Path("faces"),)
    sizes: tuple[tuple[float, int], ...] = ((0.0, 64), (0.5, 112))
    terms: tuple[Part, ...] = (Part(), Part(method="similarity", weight=4.0))
    margin: float | None = None


class DividedTask(OnesTask):
    divides_batches = True


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than all runs of this file."""
    monkeypatch.setattr("facekd.engine.journal.draw_curves", lambda *_: None)


def with_rate(rate: float) -> Recipe:
    return Recipe(training=Recipe().training.model_copy(update={"learning_rate": rate}))


def entries(folder: Path) -> list[tuple[int, float]]:
    """From which step each learning rate was in force."""
    written = json.loads((folder / RECIPE).read_text())
    return [(entry["from_step"], entry["recipe"]["training"]["learning_rate"]) for entry in written]


def test_a_run_says_by_which_recipe_its_steps_were_made(tmp_path: Path) -> None:
    def go(recipe: Recipe, until: int, *, resume: bool = True) -> None:
        fit(OnesTask(), recipe.training, tmp_path, resume=resume, stop_after=until, recipe=recipe)

    go(Recipe(), 1, resume=False)
    whole = json.loads((tmp_path / RECIPE).read_text())[0]["recipe"]
    assert whole["folders"] == ["faces"]
    assert whole["training"]["ema_decay"] == 0.999  # a default is said, too: it may be another one in a later version
    go(Recipe(), 2)
    assert entries(tmp_path) == [(0, 0.1)]
    go(with_rate(0.2), 2)
    go(with_rate(0.3), 3)  # no step was made by the one before
    assert entries(tmp_path) == [(0, 0.1), (2, 0.3)]
    other = Recipe(training=Recipe().training.model_copy(update={"seed": 5}))
    with pytest.raises(ConfigError, match="seed"):
        go(other, 4)
    assert entries(tmp_path) == [(0, 0.1), (2, 0.3)]  # nothing was trained by what was refused
    (tmp_path / RECIPE).unlink()  # as older versions left their folders
    assert "not known" in recipe_changes(tmp_path, Recipe())[0]
    go(Recipe(), 4)
    assert entries(tmp_path) == [(3, 0.1)]


def test_each_key_that_differs_has_a_line(tmp_path: Path) -> None:
    write_recipe(tmp_path, Recipe(), 0)
    assert recipe_changes(tmp_path, Recipe()) == []
    now = Recipe(
        training=TrainingSettings(steps=4, learning_rate=0.1, threads=1, minutes=98.0),
        sizes=((0.0, 112),),
        terms=(Part(), Part(method="similarity", weight=2.0)),
        margin=0.0,
    )
    assert recipe_changes(tmp_path, now) == [
        "training.minutes is 98.0 now, was None in this run",
        "sizes is [[0.0, 112]] now, was [[0.0, 64], [0.5, 112]] in this run",
        "terms[1].weight is 2.0 now, was 4.0 in this run",
        "margin is 0.0 now, was None in this run",
    ]
    assert recipe_changes(tmp_path, Recipe(terms=(Part(),))) == [
        "terms[1].method is not there now, was similarity in this run",
        "terms[1].weight is not there now, was 4.0 in this run",
    ]
    (tmp_path / RECIPE).write_text("[{")
    with pytest.raises(ConfigError, match=f"cannot read .*{RECIPE}"):
        recipe_changes(tmp_path, Recipe())


def test_every_packaged_recipe_can_be_written_down(tmp_path: Path) -> None:
    for path in RECIPES.glob("*.toml"):
        table = read_toml(path)
        if table["kind"] != "compare":
            recipe = parse_recipe(importlib.import_module(stage_of(table, path)).Recipe, table, path)
            write_recipe(tmp_path, recipe, 0)
            assert recipe_changes(tmp_path, recipe) == [], path


def test_a_look_at_the_folder_is_enough_to_refuse(tmp_path: Path) -> None:
    settings = Recipe().training
    check_folder(tmp_path, settings, resume=False)
    with pytest.raises(ConfigError, match=r"holds no checkpoint.pt .*--run"):
        check_folder(tmp_path, settings, resume=True)
    fit(OnesTask(), settings, tmp_path, stop_after=1)
    check_folder(tmp_path, settings, resume=True)
    with pytest.raises(ConfigError, match="holds a run already"):
        check_folder(tmp_path, settings, resume=False)
    with pytest.raises(ConfigError, match="optimizer = 'adamw', not 'muon'"):
        check_folder(tmp_path, settings.model_copy(update={"optimizer": "muon"}), resume=True)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot read"):
        check_folder(tmp_path, settings, resume=True)


def test_the_library_says_that_there_is_nothing_to_go_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(OnesTask(), Recipe().training, tmp_path, resume=True, stop_after=1)
    assert "holds no checkpoint: starting anew" in " ".join(capsys.readouterr().err.split())


def test_several_ranks_are_for_tasks_that_divide_their_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.engine.ranks.rank_and_ranks", lambda: (1, 4))
    with pytest.raises(ConfigError, match="OnesTask does not divide its batches over ranks: all 4"):
        fit(OnesTask(), Recipe().training, tmp_path)
    assert not any(tmp_path.iterdir())
    settings = DistillSettings(teachers={"t": {"file": "t.onnx"}}, terms=[{"method": "cosine"}])
    for base in (OnesTask(), DividedTask()):
        distilled = DistilledTask(base, {"t": TorchTeacher(nn.Linear(1, 1))}, settings)
        assert distilled.divides_batches is isinstance(base, DividedTask)
    refuse_undivided_batches(distilled)
    assert EmbedderTask.divides_batches


def test_the_terms_that_are_not_finite_are_named(tmp_path: Path) -> None:
    class Broken(OnesTask):
        def losses(self, batch: torch.Tensor, step: int, progress: float) -> dict[str, torch.Tensor]:
            own = super().losses(batch, step, progress)
            return own | {"distill/kl": own["square"] * torch.nan, "margin": own["square"] * 0.5}

    with pytest.raises(TrainingDiverged, match=r"at step 1 \(not finite: distill/kl\).*teacher"):
        fit(Broken(), Recipe().training, tmp_path)
