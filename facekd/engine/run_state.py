"""How far a run is, and the checkpoint that an interrupted one goes on from."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.optim import Optimizer

from facekd.engine.averaging import AveragedWeights
from facekd.engine.ranks import rank_and_ranks
from facekd.engine.settings import TrainingSettings
from facekd.engine.task import KnowsItsData, Task
from facekd.errors import ConfigError, ModelError
from facekd.whole_files import whole_file

_UNREADABLE = (RuntimeError, EOFError, OSError, pickle.UnpicklingError)
UNCHANGED = ("seed", "accumulate", "optimizer")  # without these a resumed run would not be the one that was interrupted


class RunState:
    """What a checkpoint holds beside weights.

    Args:
        settings: of the run; a resumed one must agree with it in part.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self.step = 0
        self.elapsed = 0.0  # seconds spent training
        self.best_score = -math.inf
        self._settings = {name: getattr(settings, name) for name in UNCHANGED}

    def save(self, fabric: Fabric, path: Path, task: Task, optimizer: Optimizer, averaged: AveragedWeights) -> None:
        """Write the checkpoint; a kill leaves the old one or the new one."""
        content = {
            "module": task.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "averaged": averaged.network.state_dict(),
            "updates": averaged.updates,
            "step": self.step,
            "elapsed": self.elapsed,
            "best_score": self.best_score,
            "settings": self._settings,
            "ranks": rank_and_ranks()[1],
            "data": _data(task),
        }
        with whole_file(path) as part:
            fabric.save(part, content)

    def check(self, path: Path) -> None:
        """Refuse a checkpoint that is damaged or of a run with other settings; of its weights nothing is read.

        Raises:
            ModelError, ConfigError: as ``restore`` does, which compares network and data, too.
        """
        try:
            saved = torch.load(path, map_location="cpu", mmap=True)
        except _UNREADABLE as error:
            raise _damaged(path, error) from error
        self._refuse_other(saved, path)

    def restore(self, fabric: Fabric, path: Path, task: Task, optimizer: Optimizer, averaged: AveragedWeights) -> None:
        """Take up a checkpoint.

        Raises:
            ModelError: it is damaged or cut off.
            ConfigError: it is of a run with another seed, ``accumulate``, optimiser, network or number of ranks, or on
                other data where the task knows its own.
        """
        try:
            saved = fabric.load(path)
        except _UNREADABLE as error:
            raise _damaged(path, error) from error
        self._refuse_other(saved, path)
        _refuse_other_data(saved, _data(task), path)
        try:
            task.module.load_state_dict(saved["module"])
            decays = [group["weight_decay"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved["optimizer"])
            for group, decay in zip(optimizer.param_groups, decays, strict=True):
                group["weight_decay"] = decay  # the recipe's of now, like the learning rate, not the checkpoint's
            averaged.network.load_state_dict(saved["averaged"])
            averaged.updates, self.step = saved["updates"], saved["step"]
            self.elapsed, self.best_score = saved["elapsed"], saved["best_score"]
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} is of another run: resume with the recipe and the data that it began with, or give another "
                f"--run to start anew. {error}"
            ) from error

    def _refuse_other(self, saved: dict[str, Any], path: Path) -> None:
        found = {**saved.get("settings", {}), "ranks": saved.get("ranks", rank_and_ranks()[1])}
        for name, now in {**self._settings, "ranks": rank_and_ranks()[1]}.items():
            if found.get(name, now) != now:
                raise ConfigError(
                    f"{path} is of a run with {name} = {found[name]!r}, not {now!r}: resume with what it began with, "
                    "or give another --run to start anew"
                )


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(f"cannot read {path}: {error}; remove it, or give another --run, to start anew")


def _data(task: Task) -> dict[str, str]:
    return dict(task.data_digests()) if isinstance(task, KnowsItsData) else {}


def _refuse_other_data(saved: dict[str, Any], now: dict[str, str], path: Path) -> None:
    """Checkpoints that do not say what they are of are taken; so are other validation data before there is a best
    score, for a validation that gave none has to be put right."""
    unjudged = saved.get("best_score") == -math.inf
    for name, found in saved.get("data", {}).items():
        if now.get(name, found) != found and not (name == "validation" and unjudged):
            raise ConfigError(
                f"{path} is of a run with other {name} data: resume with the data that it began with, or give another "
                "--run to start anew"
            )
