"""The loop against ten lines of NumPy: schedule, clipping, optimiser and averaged weights together; and precision."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch import Tensor, nn

from facekd.engine.loop import fit
from facekd.engine.settings import TrainingSettings

STEPS, RATE, FINAL, CLIP, DECAY = 4, 0.3, 0.1, 0.7, 0.4


class PlaneTask:
    """Learns y = 3a - b + 1 by one layer; keeps the averaged weights that it is judged by."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.student = nn.Linear(2, 1)
        self.module: nn.Module = self.student
        self.judged = torch.zeros(3)
        self.seen: set[tuple[bool, torch.dtype]] = set()

    def batch(self, step: int) -> dict[str, Tensor]:
        x = torch.from_numpy(np.random.default_rng(step).normal(size=(8, 2)).astype(np.float32))
        return {"x": x, "y": x @ torch.tensor([[3.0], [-1.0]]) + 1}

    def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
        answer = self.student(batch["x"])
        self.seen.add((torch.is_autocast_enabled(answer.device.type), answer.dtype))
        return {"squared": (answer - batch["y"]).square().mean()}

    def validate(self, student: nn.Module) -> dict[str, float]:
        self.judged = flat(student)
        return {"score": 0.0}

    def export(self, student: nn.Module, path: Path) -> None:
        path.write_bytes(b"weights")


def flat(layer: nn.Module) -> Tensor:
    return torch.cat([value.detach().cpu().flatten() for value in layer.parameters()])


def by_hand(task: PlaneTask) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Weights and averaged weights after the last step, and the norms of the gradients before clipping."""
    weights = flat(task.student).double().numpy()
    average, momentum, norms = weights.copy(), np.zeros(3), []
    factors = [1e-3, 0.5, 1.0, FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi / 2))]  # warm-up: half of the run
    for step, factor in enumerate(factors):
        batch = task.batch(step)
        x = np.concatenate([batch["x"].double().numpy(), np.ones((8, 1))], axis=1)
        gradient = 2 * x.T @ (x @ weights - batch["y"].double().numpy()[:, 0]) / 8
        norms.append(float(np.linalg.norm(gradient)))
        gradient *= min(1.0, CLIP / norms[-1])
        gradient[:2] += DECAY * weights[:2]  # never on biases
        momentum = gradient + 0.9 * momentum
        weights = weights - RATE * factor * (gradient + 0.9 * momentum)
        kept = min(0.9, (2 + step) / (11 + step))
        average = kept * average + (1 - kept) * weights
    return weights, average, norms


def test_a_run_is_what_ten_lines_make_it(tmp_path: Path) -> None:
    task = PlaneTask()
    weights, average, norms = by_hand(task)
    assert min(norms) > 1.5 * CLIP  # there is something to clip
    settings = TrainingSettings(
        steps=STEPS,
        optimizer="sgd",
        learning_rate=RATE,
        final_learning_rate=FINAL,
        weight_decay=DECAY,
        warmup=0.5,
        clip_norm=CLIP,
        ema_decay=0.9,
        threads=1,
    )
    fit(task, settings, tmp_path)
    np.testing.assert_allclose(flat(task.student), weights, rtol=1e-4)
    np.testing.assert_allclose(task.judged, average, rtol=1e-4)
    assert np.abs(average - weights).max() > 0.1


@pytest.mark.parametrize(("precision", "kind"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_the_forward_pass_has_the_precision_that_is_asked_for(
    tmp_path: Path, precision: str, kind: torch.dtype
) -> None:
    task = PlaneTask()
    fit(task, TrainingSettings(steps=1, learning_rate=0.1, precision=precision, threads=1), tmp_path)
    assert task.seen == {(kind == torch.bfloat16, kind)}
    assert task.student.weight.dtype == torch.float32
