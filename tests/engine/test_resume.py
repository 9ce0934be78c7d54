"""Going on from a checkpoint: what comes from it, what from the recipe of now, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from facekd.engine.averaging import AveragedWeights
from facekd.engine.digests import digest_of
from facekd.engine.loop import make_optimizer
from facekd.engine.run_state import RunState
from facekd.engine.settings import TrainingSettings
from facekd.errors import ConfigError

SETTINGS = TrainingSettings(steps=40, learning_rate=0.02, threads=1)


class PointTask:
    """One layer on the points and labels that it is given; nothing here is ever stepped."""

    def __init__(self, training: tuple[int, ...] = (1, 2), validation: tuple[int, ...] = (3,)) -> None:
        self.labels = {"training": np.array(training), "validation": np.array(validation)}
        self.student: nn.Module = nn.Linear(16, 2)
        self.module = self.student

    def batch(self, step: int) -> Tensor:
        return torch.ones(2, 16)

    def losses(self, batch: Tensor, step: int, progress: float) -> dict[str, Tensor]:
        return {"sum": self.student(batch).square().mean()}

    def validate(self, student: nn.Module) -> dict[str, float]:
        return {"score": 0.0}

    def export(self, student: nn.Module, path: Path) -> None:
        path.write_bytes(b"weights")

    def data_digests(self) -> dict[str, str]:
        return {name: digest_of([labels]) for name, labels in self.labels.items()}


class OlderTask(PointTask):
    """Cannot say what it is on."""

    data_digests = None  # type: ignore[assignment]


def save(task: PointTask, path: Path, best_score: float = 0.5) -> None:
    state = RunState(SETTINGS)
    state.step, state.best_score = 7, best_score
    fabric, averaged = Fabric(accelerator="cpu", devices=1), AveragedWeights(task.student, 0.9)
    state.save(fabric, path, task, make_optimizer(task.module, SETTINGS), averaged)


def restored_step(task: PointTask, path: Path) -> int:
    state = RunState(SETTINGS)
    fabric, averaged = Fabric(accelerator="cpu", devices=1), AveragedWeights(task.student, 0.9)
    state.restore(fabric, path, task, make_optimizer(task.module, SETTINGS), averaged)
    return state.step


def test_other_data_are_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save(PointTask(), path)
    assert restored_step(PointTask(), path) == 7
    with pytest.raises(ConfigError, match="other training data"):
        restored_step(PointTask(training=(1, 3)), path)
    with pytest.raises(ConfigError, match="other validation data"):
        restored_step(PointTask(validation=(4,)), path)


def test_what_is_not_known_is_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save(OlderTask(), path)
    assert restored_step(PointTask(), path) == 7
    save(PointTask(), path)
    assert restored_step(OlderTask(training=(8,)), path) == 7
    saved = torch.load(path)
    del saved["data"]
    torch.save(saved, path)
    assert restored_step(PointTask(training=(8,)), path) == 7  # as older versions wrote them


def test_validation_data_that_gave_no_score_may_be_put_right(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save(PointTask(), path, best_score=-math.inf)
    assert restored_step(PointTask(validation=(4,)), path) == 7
    with pytest.raises(ConfigError, match="other training data"):
        restored_step(PointTask(training=(1, 3), validation=(4,)), path)


def test_digests_see_values_types_and_shapes() -> None:
    arrays = [np.array([1, 2]), np.array([1, 3]), np.array([1, 2], np.int32), np.array([[1, 2]])]
    assert len({digest_of([array]) for array in arrays}) == 4
    assert digest_of([arrays[0], ("a", "b"), None]) == digest_of([np.array([1, 2]), ("a", "b"), None])
    assert digest_of([("a", "b")]) != digest_of([("a", "c")])


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_weight_decay_is_that_of_the_recipe_of_now(tmp_path: Path, optimizer: str) -> None:
    def optimizer_with(decay: float) -> Optimizer:
        settings = SETTINGS.model_copy(update={"optimizer": optimizer, "weight_decay": decay})
        return make_optimizer(task.module, settings, task.student)

    task, state, fabric = PointTask(), RunState(SETTINGS), Fabric(accelerator="cpu", devices=1)
    averaged = AveragedWeights(task.student, 0.9)
    state.save(fabric, tmp_path / "checkpoint.pt", task, optimizer_with(0.0), averaged)
    now = optimizer_with(0.9)
    state.restore(fabric, tmp_path / "checkpoint.pt", task, now, averaged)
    assert [group["weight_decay"] for group in now.param_groups] == [0.9, 0.0]
