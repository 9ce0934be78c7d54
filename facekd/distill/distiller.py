"""The Distiller: hooks a student and its teachers, builds adapters, and gives every term of a recipe by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from facekd.distill.adapters import Adapter, least_squares_map
from facekd.distill.methods import Method, find_method
from facekd.distill.schedules import Schedule
from facekd.distill.settings import Term, source_of
from facekd.distill.taps import INPUT, OUTPUT, Captured, watch
from facekd.distill.teachers import CachedTeacher, EmaTeacher, OnlineTeacher, Teacher, TeacherEnsemble
from facekd.distill.term_loss import build_scheduled, check_answers, try_loss
from facekd.distill.weighting import confidence_weights, correctness_weights, difficulty_weights
from facekd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Distilled:
    """What one pass gave.

    Attributes:
        student: what the student returned.
        terms: weighted losses by name, `distill/NAME`; their sum is to be minimised.
        answers: the teachers' answers by teacher and tap.
    """

    student: Any
    terms: dict[str, Tensor]
    answers: dict[str, Mapping[str, Tensor]]


class Distiller(nn.Module):
    """Composition of distillation terms between one student and one or more teachers.

    The module's parameters are adapters, generators and online teachers: hand them to the optimiser and save them in
    checkpoints beside the student. The student itself is *not* a part of this module, and nothing of this module is a
    part of the student, so an exported student is free of it. Fixed teachers are no part either.

    Args:
        student: the network that learns. Its layers are hooked only while it is watched.
        teachers: by name.
        terms: what is taken from them; see `facekd.distill.settings.Term`.
        example: (N >= 2, 3, H, W) pictures as the student sees them; one pass of each network tells the shapes.
        centres: the class centres (P, T) of teachers by name, for the methods that need them.
        teacher_example: the same pictures as the teachers see them, where they see them larger.
        called: what is called in the student's place, where it is compiled; see `facekd.distill.taps.watch`.

    Raises:
        ConfigError: an unknown tap, method, option or teacher, or features that no adapter can bring together.

    Example:
        >>> distiller = Distiller(student, {"large": TorchTeacher(large)}, [Term(method="kl")], pictures)
        >>> optimiser = AdamW([*student.parameters(), *distiller.parameters()])
        >>> result = distiller(pictures, progress=0.1)
        >>> sum(result.terms.values()).backward()
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Mapping[str, Teacher],
        terms: Sequence[Term],
        example: Tensor,
        centres: Mapping[str, Tensor] | None = None,
        *,
        teacher_example: Tensor | None = None,
        called: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self._student = (student,)  # in a tuple: not a submodule
        self._called = (called,)  # likewise
        self._teachers = dict(teachers)
        self._terms = tuple(terms)
        self._last_step: int | None = None
        self._sources = [source_of(term, self._teachers) for term in self._terms]
        labels = [term.label for term in self._terms]
        if len(set(labels)) != len(labels):
            raise ConfigError(f"terms need different names, got {', '.join(labels)}; set name = … in the recipe")
        inner = _unique(tap for term in self._terms for tap in _with_scores(term, term.student))
        self.student_taps = _unique([*inner, INPUT])
        self._teacher_taps = {
            name: _unique(
                tap
                for term, source in zip(self._terms, self._sources, strict=True)
                if source == name
                for tap in _with_scores(term, term.teacher)
            )
            for name in self._teachers
        }
        with watch(student, self.student_taps, "student", called):
            pass  # refuses what cannot be tapped
        for name, taps in self._teacher_taps.items():
            self._teachers[name].check(taps)
        # Teachers that move (averages, online ones) are saved and, where they are trained, optimised with the rest.
        moving = {name: teacher for name, teacher in self._teachers.items() if isinstance(teacher, nn.Module)}
        self.moving = nn.ModuleDict(moving)
        for name, teacher in self._teachers.items():
            for member in teacher.members if isinstance(teacher, TeacherEnsemble) else ():
                if isinstance(member, nn.Module) and all(member is not known for known in moving.values()):
                    raise ConfigError(f"the ensemble {name!r} has a member that moves: give it among the teachers, too")
        self.adapters = nn.ModuleList()
        self.losses = nn.ModuleList()
        self._schedules: list[dict[str, Schedule]] = []
        self._build(example, example if teacher_example is None else teacher_example, centres or {})

    @torch.no_grad()
    def _build(self, example: Tensor, teacher_example: Tensor, centres: Mapping[str, Tensor]) -> None:
        student = self._student[0]
        # The example must not move BatchNorm statistics, neither the student's nor those of a teacher in training.
        modes = {module: module.training for part in (student, self.moving) for module in part.modules()}
        student.eval()
        self.moving.eval()
        with watch(student, self.student_taps, "student") as seen:
            student(example)
        answers = {n: self._teachers[n].answer(teacher_example, taps) for n, taps in self._teacher_taps.items() if taps}
        for module, mode in modes.items():
            module.training = mode
        for term, source in zip(self._terms, self._sources, strict=True):
            method = find_method(term.method)
            pairs = [(seen[s], answers[source][t]) for s, t in zip(term.student, term.teacher, strict=True)]
            self.adapters.append(nn.ModuleList(self._adapter(term, method, s, t) for s, t in pairs))
            check_answers(term, method, seen, answers[source])
            given = {"channels": pairs[0][1].shape[1], "centres": centres.get(source)}
            loss, schedules = build_scheduled(term, given)
            try_loss(term, method, loss, self.adapters[-1], pairs)
            self.losses.append(loss)
            self._schedules.append(schedules)

    def _adapter(self, term: Term, method: Method, student: Tensor, teacher: Tensor) -> nn.Module:
        if method.meets == "nothing":
            if term.adapter == "always" or term.normalise != "none":
                raise ConfigError(f"{term.label}: {term.method} needs no adapter; leave adapter and normalise out")
            return _Detach()
        if method.meets == "places" and term.adapter == "always":
            raise ConfigError(f"{term.label}: {term.method} sums channels away, no map is learnt: leave adapter out")
        a, b = tuple(student.shape[1:]), tuple(teacher.shape[1:])
        channels, places = method.meets != "places", method.meets != "channels"
        try:
            return Adapter(a, b, term.adapter, term.normalise, channels, places)
        except ConfigError as error:
            raise ConfigError(f"{term.label}, {term.student} to {term.teacher}: {error}") from error

    def watch(self) -> AbstractContextManager[Captured]:
        """Catch the student's taps while it runs inside the block, whoever runs it; then call `terms`."""
        return watch(self._student[0], self.student_taps, "student", self._called[0])

    def forward(self, pictures: Tensor, teacher_pictures: Tensor | None = None, **arguments: Any) -> Distilled:
        """Run the student and give all terms.

        Args:
            pictures: (N, 3, H, W) for the student.
            teacher_pictures: the clean view, when the student's is augmented more strongly; geometry must agree.
            arguments: of `terms`.
        """
        called = self._called[0]
        with self.watch() as seen:
            output = (self._student[0] if called is None else called)(pictures)
        terms, answers = self.terms(seen, teacher_pictures, **arguments)
        return Distilled(output, terms, answers)

    def terms(
        self,
        seen: Captured,
        teacher_pictures: Tensor | None = None,
        *,
        progress: float = 0.0,
        step: int | None = None,
        extras: Mapping[str, Tensor] | None = None,
        answers: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Mapping[str, Tensor]]]:
        """The weighted terms, given what the student's taps caught.

        Args:
            seen: from `watch`.
            teacher_pictures: (N, 3, H, W); by default exactly what the student was given.
            progress: 0..1, for schedules.
            step: the optimiser's step; lets averaged teachers follow the student once a step.
            extras: tensors that methods need by name: `labels` (N,), `boxes`, `photographs`, `landmarks`, `anchors`.
            answers: stored answers by teacher and tap, instead of asking that teacher.

        Returns:
            Terms by name, and the teachers' answers.

        Raises:
            ConfigError: a method lacks what it needs, or no gradient can reach a tapped layer.
        """
        extras, stored = extras or {}, answers or {}
        active = [number for number, term in enumerate(self._terms) if term.weight.at(progress) != 0.0]
        self._follow(step)
        sources = {self._sources[number] for number in active}
        if self.training:  # one that is trained beside the student learns also while nothing is taken from it
            sources |= {name for name, teacher in self._teachers.items() if isinstance(teacher, OnlineTeacher)}
        given: dict[str, Mapping[str, Tensor]] = {}
        for name in [name for name, taps in self._teacher_taps.items() if taps and name in sources]:
            if name in stored:
                given[name] = stored[name]
            elif isinstance(self._teachers[name], CachedTeacher):
                raise ConfigError(f"the teacher {name!r} has stored answers only; give them with the batch")
            else:
                shown = seen[INPUT] if teacher_pictures is None else teacher_pictures
                given[name] = self._teachers[name].answer(shown, self._teacher_taps[name])
        terms: dict[str, Tensor] = {}
        for number in active:
            term = self._terms[number]
            loss = self._term(number, seen, given[self._sources[number]], extras, progress)
            terms[f"distill/{term.label}"] = term.weight.at(progress) * loss
        return terms, given

    def teacher(self, name: str) -> Teacher:
        """One of the teachers."""
        return self._teachers[name]

    @torch.no_grad()
    def fit_adapters(self, embeddings: Tensor, answer: Callable[[str, str], Tensor]) -> None:
        """Set the linear adapters of the student's output by least squares: for a student that is trained already.

        Args:
            embeddings: (M, D) what the student gives for M photographs.
            answer: from a teacher's name and a tap of it to its answers (M, T) to the same photographs.
        """
        for number, term in enumerate(self._terms):
            adapters = cast(nn.ModuleList, self.adapters[number])
            for adapter, student_tap, teacher_tap in zip(adapters, term.student, term.teacher, strict=True):
                linear = adapter.map if isinstance(adapter, Adapter) else None
                if student_tap == OUTPUT and isinstance(linear, nn.Linear):
                    linear.weight.copy_(least_squares_map(embeddings, answer(self._sources[number], teacher_tap)))

    def _follow(self, step: int | None) -> None:
        if step is None or step == self._last_step or not self.training:
            return
        if self._last_step is not None or step > 0:
            for teacher in self.moving.values():
                if isinstance(teacher, EmaTeacher):
                    teacher.update(self._student[0])
        self._last_step = step

    def _term(
        self, number: int, seen: Captured, answers: Mapping[str, Tensor], extras: Mapping[str, Tensor], progress: float
    ) -> Tensor:
        term, method, loss = self._terms[number], find_method(self._terms[number].method), self.losses[number]
        students, teachers = [], []
        adapters = cast(nn.ModuleList, self.adapters[number])
        for adapter, student_tap, teacher_tap in zip(adapters, term.student, term.teacher, strict=True):
            if teacher_tap not in answers:
                raise ConfigError(f"{term.label}: the stored answers lack the tap {teacher_tap!r}")
            self._check_gradient(term, student_tap, seen[student_tap])
            student, teacher = adapter(seen[student_tap], answers[teacher_tap])
            students.append(student)
            teachers.append(teacher)
        named = {}
        for key in (*method.needs, *method.takes):
            if key in extras:
                named[key] = extras[key]
            elif key in method.needs:
                raise ConfigError(f"{term.label}: {term.method} needs {key!r} with every batch")
        if term.sample_weights != "none":
            named["weights"] = self._sample_weights(term, seen, answers, extras)
        for option, schedule in self._schedules[number].items():
            setattr(loss, option, schedule.at(progress))
        if method.taps == 1:
            return loss(students[0], teachers[0], **named)
        return loss(tuple(students), tuple(teachers), **named)

    def _check_gradient(self, term: Term, tap: str, features: Tensor) -> None:
        if self.training and not features.requires_grad:
            raise ConfigError(
                f"{term.label}: no gradient can reach the student's tap {tap!r}: it was computed under no_grad, or "
                "everything before it is frozen; call eval() on the Distiller if this is no training step"
            )

    @staticmethod
    def _sample_weights(
        term: Term, seen: Captured, answers: Mapping[str, Tensor], extras: Mapping[str, Tensor]
    ) -> Tensor:
        if term.sample_weights == "confidence":
            return confidence_weights(answers[OUTPUT])
        if "labels" not in extras:
            raise ConfigError(f"{term.label}: sample_weights = {term.sample_weights!r} needs 'labels' with every batch")
        if term.sample_weights == "correctness":
            return correctness_weights(answers[OUTPUT], extras["labels"])
        return difficulty_weights(seen[OUTPUT], extras["labels"])


class _Detach(nn.Module):
    """What stands where no adapter is: the teacher's side is cut from any graph."""

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return student, teacher.detach()


def _with_scores(term: Term, taps: tuple[str, ...]) -> tuple[str, ...]:
    return taps if term.sample_weights == "none" else (*taps, OUTPUT)


def _unique(taps: Any) -> list[str]:
    return list(dict.fromkeys(taps))
