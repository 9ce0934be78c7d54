"""Going on from a checkpoint: what comes from it, what from the recipe of now, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from facekd.engine.averaging import AveragedWeights
from facekd.engine.loop import make_optimizer
from facekd.engine.run_state import RunState
from facekd.engine.settings import TrainingSettings

SETTINGS = TrainingSettings(steps=40, learning_rate=0.02, threads=1)


class PointTask:
    """One layer; nothing here is ever stepped."""

    def __init__(self) -> None:
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
