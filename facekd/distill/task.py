"""Any stage's task with distillation added: the same student, data and schedule, with a recipe's terms beside its
own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.distiller import Distiller
from facekd.distill.mixing import Mixture, cutmix, mixup
from facekd.distill.settings import DistillSettings
from facekd.distill.taps import INPUT, OUTPUT, watch
from facekd.distill.teachers import OnlineTeacher, Teacher
from facekd.distill.views import strong_view
from facekd.engine.task import Task
from facekd.errors import ConfigError

PICTURES = "crops"
"""Key of a batch that holds what the networks see."""
ANSWERS = "answers/"
"""Keys `answers/TEACHER/TAP` of a batch hold stored answers."""


class DistilledTask:
    """A task whose student also learns from teachers; see `facekd.engine.task.Task`.

    The base task computes its own terms as ever. The student's input and layers are caught on that same pass: nothing
    runs twice, and the teachers see exactly what the student saw, unless it had a view of its own.

    Args:
        base: any task. Entries of its batches (a dictionary or a named tuple) go to the methods that ask for them by
            name (`labels`, `boxes`, …). Views and mixtures need dictionaries with `crops` (N, 3, H, W).
        teachers: by name.
        settings: what is distilled.
        centres: the teacher's class centres, for the methods that need them.
        seed: of views and mixtures.
        extras: further tensors by name, from the pictures that the student saw (a detector's anchors).

    Raises:
        ConfigError: a view or mixture of batches that have no `crops`, and whatever the `Distiller` refuses.
    """

    def __init__(
        self,
        base: Task,
        teachers: Mapping[str, Teacher],
        settings: DistillSettings,
        centres: Tensor | None = None,
        seed: int = 0,
        extras: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self._base, self._settings, self._seed, self._extras = base, settings, seed, extras
        first = base.batch(0)
        changes = settings.view is not None or settings.mix is not None
        if changes and not (isinstance(first, dict) and PICTURES in first):
            raise ConfigError(f"view and mix need batches that are dictionaries with {PICTURES!r}; leave them out here")
        # One pass tells what the student is given; nothing may move on it, so everything rests in eval().
        modes = {module: module.training for module in base.module.modules()}
        base.module.eval()
        with torch.no_grad(), watch(base.student, [INPUT], "student") as seen:
            base.losses(first, 0, 0.0)
        for module, mode in modes.items():
            module.training = mode
        self.distiller = Distiller(base.student, teachers, settings.terms, seen[INPUT][:2], centres)
        self.student: nn.Module = base.student
        self.module: nn.Module = nn.ModuleDict({"task": base.module, "distiller": self.distiller})

    def batch(self, step: int) -> Any:
        """The base task's batch, with the student's view or a mixture of it where the recipe says so.

        The teacher's pictures are then under `teacher_crops`.
        """
        if self._settings.mix is None and self._settings.view is None:
            return self._base.batch(step)
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
        named: dict[str, Any] = dict(batch) if isinstance(batch, Mapping) else batch._asdict()
        answers: dict[str, dict[str, Tensor]] = {}
        for key, value in named.items():
            if key.startswith(ANSWERS):
                teacher, tap = key.removeprefix(ANSWERS).split("/", 1)
                answers.setdefault(teacher, {})[tap] = value
        if self._extras is not None:
            named |= self._extras(seen[INPUT])
        distilled, given = self.distiller.terms(
            seen, named.get("teacher_crops"), progress=progress, step=step, extras=named, answers=answers
        )
        return terms | distilled | self._own_losses_of_teachers(given, named)

    def _own_losses_of_teachers(
        self, given: Mapping[str, Mapping[str, Tensor]], named: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """What teachers that are trained beside the student learn from: the labels alone."""
        terms = {}
        for name, teacher in self.distiller.moving.items():
            if isinstance(teacher, OnlineTeacher) and name in given:
                if "labels" not in named or OUTPUT not in given[name]:
                    raise ConfigError(f"the online teacher {name!r} learns class scores: tap its 'output', with labels")
                target = named["labels"].float() if named["labels"].is_floating_point() else named["labels"]
                terms[f"teacher/{name}"] = F.cross_entropy(given[name][OUTPUT].float(), target)
        return terms

    def validate(self, student: nn.Module) -> dict[str, float]:
        """The base task's judgement."""
        return self._base.validate(student)

    def export(self, student: nn.Module, path: Path) -> None:
        """The base task's export: the student alone."""
        self._base.export(student, path)
