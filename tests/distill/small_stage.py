"""A stage of toys: tiny networks that tell the brightest channel of an 8x8 picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.engine.export import export_onnx
from facekd.engine.settings import TrainingSettings
from facekd.runtime import open_session


def small(width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 3),
    )  # fmt: skip


def write(network: nn.Module, path: Path) -> Path:
    axes = {"face": {0: "faces"}, "logits": {0: "faces"}}
    export_onnx(network, torch.zeros(1, 3, 8, 8), path, inputs=["face"], outputs=["logits"], dynamic_axes=axes)
    return path


def pictures(count: int, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Noise whose brightest channel is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    crops = rng.normal(0, 0.3, (count, 3, 8, 8)).astype(np.float32)
    crops[np.arange(count), labels] += 1
    return crops, labels


class Task:
    def __init__(self, seed: int, student: nn.Module | None) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.student = student if student is not None else small()
        self.module = self.student

    def batch(self, step: int) -> dict[str, Tensor]:
        crops, labels = pictures(12, (self.seed, step))
        return {"crops": torch.from_numpy(crops), "labels": torch.from_numpy(labels)}

    def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
        return {"label": F.cross_entropy(self.student(batch["crops"]), batch["labels"])}

    def validate(self, student: nn.Module) -> dict[str, float]:
        return {"score": 0.5}

    def export(self, student: nn.Module, path: Path) -> None:
        write(student, path)


class Stage:
    figures = ("accuracy", "margin")
    example = np.zeros((1, 3, 8, 8), np.float32)

    def __init__(self, steps: int = 3, **training) -> None:
        self.architectures = {"small": small}
        self.judged: list[Path] = []
        self.data = "noise"
        self.stored: dict[str, dict[str, float]] = {}
        self.training = TrainingSettings(steps=steps, learning_rate=0.01, validate_every=steps, warmup=0.0, **training)

    def settings(self, seed: int) -> TrainingSettings:
        return self.training.model_copy(update={"seed": seed})

    def data_digest(self) -> str:
        return self.data

    def task(self, seed: int, student: nn.Module | None) -> Task:
        return Task(seed, student)

    def teachers(self):
        return {}

    def centres(self):
        return {}

    def judge_stored(self):
        return self.stored

    def judge(self, weights: Path) -> dict[str, float]:
        self.judged.append(weights)
        crops, labels = pictures(60, (99,))
        logits = open_session(weights.read_bytes(), threads=1).run({"face": crops})[0]
        return {"accuracy": float((logits.argmax(1) == labels).mean()), "margin": float(logits.std())}


def comparison_table(teacher: Path) -> dict:
    """A comparison of three rows over two seeds."""
    return {
        "kind": "compare",
        "title": "Small things",
        "recipe": "mask-status",
        "seeds": [0, 1],
        "teachers": {
            "large": {"file": str(teacher), "architecture": "small", "options": {"width": 8}},
            "itself": {"kind": "ema", "decay": 0.9},
        },
        "methods": [
            {"name": "soft labels", "terms": [{"method": "kl", "source": "large"}]},
            {
                "name": "features, then all",
                "task_weight": {"start": 0, "end": 1, "shape": "step", "until": 0.5},
                "terms": [{"method": "mgd", "source": "large", "student": "2", "teacher": "2"}],
            },
            {
                "name": "own average, CutMix, strong view",
                "mix": {"kind": "cutmix", "share": 1.0},
                "view": {"noise": 0.01},
                "terms": [{"method": "kl", "source": "itself"}],
            },
        ],
    }
