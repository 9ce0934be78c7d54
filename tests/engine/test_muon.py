"""Muon: matrices get orthogonal steps by its paper, everything else gets AdamW's."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from facekd.engine.export import export_onnx
from facekd.engine.loop import fit, make_optimizer
from facekd.engine.muon import Muon, hidden_matrices, orthogonalised
from facekd.engine.settings import TrainingSettings
from facekd.recognition.backbones import BACKBONES

SETTINGS = TrainingSettings(steps=40, learning_rate=0.3, optimizer="muon", validate_every=20, threads=1)


@pytest.mark.parametrize("shape", [(24, 24), (16, 90), (90, 16)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    assert values.max() / values.min() > 1.5
    found = left.T @ orthogonalised(matrix).double().numpy() @ right.T
    kept = np.abs(np.diag(found))
    assert 0.6 < kept.min() <= kept.max() < 1.3
    assert np.abs(found - np.diag(np.diag(found))).max() < 1e-4
    assert (np.diag(found) > 0).all()


def test_a_gradient_of_nothing_moves_nothing() -> None:
    assert torch.equal(orthogonalised(torch.zeros(4, 7)), torch.zeros(4, 7))


def test_two_steps_by_hand() -> None:
    rate, decay, keep = 0.1, 0.3, 0.95
    rng = np.random.default_rng(2)
    start, gradients = rng.normal(size=(4, 16, 3, 3)), rng.normal(size=(2, 4, 16, 3, 3))
    weight = nn.Parameter(torch.from_numpy(start).float())
    optimizer = Muon([{"params": [weight], "weight_decay": decay}], [weight], lr=rate)
    expected, momentum = start.reshape(4, -1), np.zeros((4, 144))
    for gradient in gradients:
        weight.grad = torch.from_numpy(gradient).float()
        optimizer.step()
        flat = gradient.reshape(4, -1)
        momentum = keep * momentum + (1 - keep) * flat
        x = (1 - keep) * flat + keep * momentum
        x /= np.linalg.norm(x)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
        expected = expected * (1 - rate * decay) - rate * 0.2 * np.sqrt(144) * x
    np.testing.assert_allclose(weight.detach().numpy().reshape(4, -1), expected, atol=1e-4)


def test_others_move_as_adamw_moves_them() -> None:
    def trained(make: type[AdamW] | None) -> Tensor:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 1))
        network[1].requires_grad_(False)  # else its own steps would show in the gradients of the first
        groups = [{"params": list(network[0].parameters()), "weight_decay": 0.1}]
        optimizer = make(groups, lr=0.01) if make else Muon(groups, hidden_matrices(network), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            network(torch.ones(1, 3, 4, 4)).square().sum().backward()
            optimizer.step()
        return network[0].weight.detach()

    assert torch.equal(trained(None), trained(AdamW))


def test_hidden_matrices_leave_out_stems_and_depthwise_layers() -> None:
    student = BACKBONES["dense_resnet"](dimension=32)
    chosen = {id(parameter) for parameter in hidden_matrices(student)}
    names = {name for name, parameter in student.named_parameters() if id(parameter) in chosen}
    assert {"body.0.conv1.weight", "project.weight"} <= names
    assert not names & {"stem.0.weight", "pool.conv.weight"}
    assert all(name.endswith("weight") and "norm" not in name for name in names)


def test_adapters_and_centres_are_left_to_adamw() -> None:
    student, adapter = nn.Linear(32, 32), nn.Linear(32, 32)
    optimizer = make_optimizer(nn.ModuleList([student, adapter]), SETTINGS, student)
    moved = [p for group in optimizer.param_groups if group["muon"] for p in group["params"]]
    assert len(moved) == 1
    assert moved[0] is student.weight
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


class MapTask:
    """Learns a fixed linear map of 16 numbers."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.student: nn.Module = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
        self.module = self.student
        self._wanted = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))

    def batch(self, step: int) -> dict[str, Tensor]:
        x = torch.from_numpy(np.random.default_rng((1, step)).normal(size=(16, 16)).astype(np.float32))
        return {"x": x, "y": x @ self._wanted}

    def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
        return {"squared": (self.student(batch["x"]) - batch["y"]).square().mean()}

    def validate(self, student: nn.Module) -> dict[str, float]:
        batch = self.batch(10_000)
        return {"score": -float((student(batch["x"]) - batch["y"]).square().mean())}

    def export(self, student: nn.Module, path: Path) -> None:
        export_onnx(student, torch.zeros(1, 16), path, inputs=["x"], outputs=["y"], dynamic_axes={"x": {0: "n"}})


def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = fit(MapTask(3), SETTINGS, tmp_path / "whole")
    first = fit(MapTask(3), SETTINGS, tmp_path / "parts", stop_after=20)
    rest = fit(MapTask(99), SETTINGS, tmp_path / "parts", resume=True)
    np.testing.assert_allclose(first.losses + rest.losses, whole.losses, rtol=0, atol=1e-6)
    assert whole.losses[-1] < 0.5 * whole.losses[0]
