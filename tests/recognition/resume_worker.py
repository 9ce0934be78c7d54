"""A tiny run of the shipped embedder's recipe: ``python resume_worker.py DATA RUN`` is killed by SIGKILL in step 12."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from facekd.engine.loop import fit
from facekd.engine.settings import find_recipe, parse_recipe, read_toml
from facekd.recognition import train

KILLED, AFTER = 12, 20  # steps before the kill, and those compared
CHANGES = (
    f"training.steps={KILLED + AFTER}",
    "training.validate_every=10",
    "training.threads=1",
    "training.checkpoint_minutes=1e-4",
    "network.dimension=16",
    "network.options={widths=[16, 16, 16, 16], blocks=[0, 1, 1, 1]}",
    "data.batch=8",
    "data.sizes=[[0.0, 32]]",
)


def run(data: Path, folder: Path, kill_at: int = -1) -> tuple[tuple[float, ...], list[float]]:
    """Train, going on where a run in the folder was; the losses, and CurricularFace's t before each step."""
    path = find_recipe("embedder-dense")
    table = read_toml(path, CHANGES)
    table["data"]["folders"] = [str(data)]
    recipe = parse_recipe(train.Recipe, table, path)
    task: Any = train.build_task(recipe)
    losses, seen = task.losses, []

    def watched(batch: dict[str, torch.Tensor], step: int, progress: float) -> dict[str, torch.Tensor]:
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(float(task.module["task"]["head"].t))
        return losses(batch, step, progress)

    task.losses = watched
    return fit(task, recipe.training, folder, resume=True).losses, seen


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), KILLED)
