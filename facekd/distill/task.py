"""Any stage's task with distillation added: the same student, data and schedule, with a recipe's terms beside its
own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.distiller import Distiller
from facekd.distill.methods import find_method
from facekd.distill.mixing import Mixture, class_shares, cutmix, mixup
from facekd.distill.settings import DistillSettings, MixSettings, Term
from facekd.distill.taps import INPUT, OUTPUT, watch
from facekd.distill.teachers import OnlineTeacher, Teacher
from facekd.distill.views import strong_view
from facekd.engine.task import Completes, DividesBatches, KnowsItsData, Task
from facekd.errors import ConfigError

PICTURES = "crops"
"""Key of a batch that holds what the networks see."""
CLEAN = "teacher_crops"
"""Key of a batch that holds what the teachers see beside a student's stronger view."""
ANSWERS = "answers/"
"""Keys `answers/TEACHER/TAP` of a batch hold stored answers."""


class DistilledTask:
    """A task whose student also learns from teachers; see `facekd.engine.task.Task`.

    The base task computes its own terms as ever. The student's input and layers are caught on that same pass: nothing
    runs twice. The teachers see the batch's `crops` where it has them (a student may be shown them smaller), else
    exactly what the student saw; and the clean pictures, where the student has a view of its own.

    Args:
        base: any task. Entries of its batches (a dictionary or a named tuple) go to the methods that ask for them by
            name (`labels`, `boxes`, …). Views and mixtures need dictionaries with `crops` (N, 3, H, W). Three more
            attributes are used where it has them: `extras(pictures, batch)`, further tensors by name from the pictures
            that the student was given and the batch (a detector's anchors), before entries of the batch with the same
            name; `called`, the compiled student that it calls while it learns; and `fit_adapters(distiller)`, which
            starts the adapters of a student that does not begin from noise.
        teachers: by name.
        settings: what is distilled.
        centres: class centres of teachers by name, for the methods that need them.
        seed: of views and mixtures.

    Raises:
        ConfigError: a view or mixture of batches that have no `crops`, a mixture of what is no class score, and
            whatever the `Distiller` refuses.
    """

    def __init__(
        self,
        base: Task,
        teachers: Mapping[str, Teacher],
        settings: DistillSettings,
        centres: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        self._base, self._settings, self._seed = base, settings, seed
        first = base.batch(0)
        changes = settings.view is not None or settings.mix is not None
        if changes and not (isinstance(first, dict) and PICTURES in first):
            raise ConfigError(f"view and mix need batches that are dictionaries with {PICTURES!r}; leave them out here")
        if settings.mix is not None:
            _check_mixing(settings.mix, settings.terms, first)
        # One pass tells what the student is given; nothing may move on it, so everything rests in eval().
        modes = {module: module.training for module in base.module.modules()}
        base.module.eval()
        with torch.no_grad(), watch(base.student, [INPUT], "student") as seen:
            base.losses(first, 0, 0.0)
        for module, mode in modes.items():
            module.training = mode
        shown = self._for_teachers(first)
        self.distiller = Distiller(
            base.student,
            teachers,
            settings.terms,
            seen[INPUT][:2],
            centres,
            teacher_example=None if shown is None else shown[:2],
            called=getattr(base, "called", None),
        )
        if hasattr(base, "fit_adapters"):
            base.fit_adapters(self.distiller)
        self.divides_batches = isinstance(base, DividesBatches) and base.divides_batches
        self.student: nn.Module = base.student
        self.module: nn.Module = nn.ModuleDict({"task": base.module, "distiller": self.distiller})

    def batch(self, step: int) -> Any:
        """The base task's batch, with the student's view or a mixture of it where the recipe says so.

        With a view the teacher's pictures are under `teacher_crops`.
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
            batch["labels"] = class_shares(batch["labels"], mix.classes)
        if self._settings.view is not None:
            batch[CLEAN] = batch[PICTURES]
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
        if hasattr(self._base, "extras"):
            named |= self._base.extras(seen[INPUT], batch)
        distilled, given = self.distiller.terms(
            seen, self._for_teachers(batch), progress=progress, step=step, extras=named, answers=answers
        )
        return terms | distilled | self._own_losses_of_teachers(given, named)

    @staticmethod
    def _for_teachers(batch: Any) -> Tensor | None:
        """The pictures that teachers see; None for what the student was given."""
        return batch.get(CLEAN, batch.get(PICTURES)) if isinstance(batch, Mapping) else None

    def _own_losses_of_teachers(
        self, given: Mapping[str, Mapping[str, Tensor]], named: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """What teachers that are trained beside the student learn from: the labels alone."""
        terms = {}
        for name, teacher in self.distiller.moving.items():
            if isinstance(teacher, OnlineTeacher) and name in given:
                if "labels" not in named or OUTPUT not in given[name]:
                    raise ConfigError(f"the online teacher {name!r} learns class scores: tap its 'output', with labels")
                terms[f"teacher/{name}"] = _cross_entropy(given[name][OUTPUT].float(), named["labels"])
        return terms

    def validate(self, student: nn.Module) -> dict[str, float]:
        """The base task's judgement."""
        return self._base.validate(student)

    def export(self, student: nn.Module, path: Path) -> None:
        """The base task's export: the student alone."""
        self._base.export(student, path)

    def complete(self, path: Path) -> str:
        """See `facekd.engine.task.Completes`."""
        return self._base.complete(path) if isinstance(self._base, Completes) else ""

    def data_digests(self) -> dict[str, str]:
        """Those of the base task: what teachers say is not data of its own."""
        return dict(self._base.data_digests()) if isinstance(self._base, KnowsItsData) else {}


def _check_mixing(mix: MixSettings, terms: Sequence[Term], batch: Mapping[str, Tensor]) -> None:
    """Raise ConfigError where a mixture makes no sense: it has class scores, and is nobody's face."""
    for term in terms:
        method = find_method(term.method)
        if "labels" in (*method.needs, *method.takes) and not method.shares:
            raise ConfigError(f"{term.label}: {term.method} asks who is seen, and a mixture is nobody; leave mix out")
    if "labels" in batch:
        class_shares(batch["labels"], mix.classes)
    for key, value in batch.items():
        if key.startswith(ANSWERS) and tuple(value.shape[1:]) != (mix.classes,):
            raise ConfigError(
                f"stored answers {key.removeprefix(ANSWERS)!r} have shape {tuple(value.shape[1:])} and are no scores "
                f"of {mix.classes} classes, so they cannot be mixed; leave mix out, or let the teacher see the mixture"
            )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """With labels (N,), negative where nobody knows, or class shares (N, C)."""
    if labels.is_floating_point():
        return F.cross_entropy(logits, labels.float())
    known = labels >= 0
    return F.cross_entropy(logits[known], labels[known]) if known.any() else logits.sum() * 0.0
