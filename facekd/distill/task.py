"""Any stage's task with distillation added: the same student, data and schedule, with a recipe's terms beside its
own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.distiller import Distiller
from facekd.distill.mixing import Mixture, cutmix, mixup
from facekd.distill.settings import DistillSettings
from facekd.distill.teachers import Teacher
from facekd.distill.views import strong_view
from facekd.engine.task import Task
from facekd.errors import ConfigError

PICTURES = "crops"
"""Key of a batch that holds what the networks see."""
ANSWERS = "answers/"
"""Keys `answers/TEACHER/TAP` of a batch hold stored answers."""


class DistilledTask:
    """A task whose student also learns from teachers; see `facekd.engine.task.Task`.

    The base task computes its own terms as ever; the student's layers are caught on that same pass, so nothing runs
    twice.

    Args:
        base: any task whose batches are dictionaries with `crops` (N, 3, H, W); all other entries go to the methods
            that ask for them by name (`labels`, `boxes`, …).
        teachers: by name.
        settings: what is distilled.
        centres: the teacher's class centres, for the methods that need them.
        seed: of views and mixtures.
    """

    def __init__(
        self,
        base: Task,
        teachers: dict[str, Teacher],
        settings: DistillSettings,
        centres: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        self._base, self._settings, self._seed = base, settings, seed
        example = base.batch(0)
        if not isinstance(example, dict) or PICTURES not in example:
            raise ConfigError(f"distillation needs batches that are dictionaries with {PICTURES!r}")
        self.distiller = Distiller(base.student, teachers, settings.terms, example[PICTURES][:2], centres)
        self.student: nn.Module = base.student
        self.module: nn.Module = nn.ModuleDict({"task": base.module, "distiller": self.distiller})

    def batch(self, step: int) -> Any:
        """The base task's batch, with the student's view or a mixture of it where the recipe says so.

        The teacher's pictures are then under `teacher_crops`.
        """
        batch: dict[str, Tensor] = dict(self._base.batch(step))
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        mix = self._settings.mix
        if mix is not None and torch.rand(1, generator=generator).item() < mix.share:
            pictures = batch[PICTURES]
            count, _, height, width = pictures.shape
            mixture: Mixture = (
                mixup(count, mix.strength, generator)
                if mix.kind == "mixup"
                else cutmix(count, height, width, mix.strength, generator)
            )
            batch[PICTURES] = mixture.pictures(pictures)
            if "labels" in batch:
                batch["labels"] = mixture.labels(batch["labels"], mix.classes)
            for key in [key for key in batch if key.startswith(ANSWERS)]:
                batch[key] = mixture.logits(batch[key])
        elif mix is not None and "labels" in batch:
            batch["labels"] = F.one_hot(batch["labels"], mix.classes).float()
        if self._settings.view is not None:
            batch["teacher_crops"] = batch[PICTURES]
            batch[PICTURES] = strong_view(batch[PICTURES], self._settings.view, generator)
        return batch

    def losses(self, batch: Any, step: int, progress: float) -> dict[str, Tensor]:
        """The base task's terms times `task_weight`, and the recipe's."""
        weight = self._settings.task_weight.at(progress)
        with self.distiller.watch() as seen:
            own = self._base.losses(batch, step, progress)
        terms = {name: weight * term for name, term in own.items()}
        answers: dict[str, dict[str, Tensor]] = {}
        for key, value in batch.items():
            if key.startswith(ANSWERS):
                teacher, tap = key.removeprefix(ANSWERS).split("/", 1)
                answers.setdefault(teacher, {})[tap] = value
        pictures = batch.get("teacher_crops", batch[PICTURES])
        distilled, _ = self.distiller.terms(seen, pictures, progress=progress, step=step, extras=batch, answers=answers)
        return terms | distilled

    def validate(self, student: nn.Module) -> dict[str, float]:
        """The base task's judgement."""
        return self._base.validate(student)

    def export(self, student: nn.Module, path: Path) -> None:
        """The base task's export: the student alone."""
        self._base.export(student, path)
