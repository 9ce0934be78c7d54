"""The loss of a term, built and checked before the first step: whatever would fail or mean nothing later is refused."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from facekd.distill.detection import DetectionImitationLoss, check_probabilities
from facekd.distill.methods import Method, build_loss
from facekd.distill.schedules import Schedule
from facekd.distill.settings import Term
from facekd.distill.taps import OUTPUT, Captured
from facekd.errors import ConfigError


def build_scheduled(term: Term, given: Mapping[str, Tensor | int | None]) -> tuple[nn.Module, dict[str, Schedule]]:
    """The loss of a term, and those of its options that follow a schedule; both ends of each are tried.

    Args:
        term: of a recipe.
        given: what the toolkit fills in; see `build_loss`.

    Raises:
        ConfigError: see `build_loss`; a schedule that is none, or of an option that cannot change.
    """
    try:
        schedules = {
            key: Schedule.model_validate(value)
            for key, value in term.options.items()
            if isinstance(value, Mapping) and "start" in value
        }
    except ValidationError as error:
        raise ConfigError(f"{term.label}: an option's schedule is wrong: {error}") from error
    options = {key: schedules[key].at(0.0) if key in schedules else value for key, value in term.options.items()}
    loss = build_loss(term.method, options, given)
    for option, schedule in schedules.items():
        if not hasattr(loss, option):
            raise ConfigError(f"{term.label}: {option} of {term.method} cannot follow a schedule; give one value")
        with torch.random.fork_rng(devices=[]):  # a generator that is thrown away must not move the seed
            for value in (schedule.start, schedule.end):
                build_loss(term.method, {**options, option: value}, given)
    return loss, schedules


def check_answers(term: Term, method: Method, seen: Captured, answers: Mapping[str, Tensor]) -> None:
    """Raise ConfigError where what student and teacher give to the example is not what the term takes it for.

    Args:
        term: of a recipe.
        method: the term's.
        seen: what the student's taps caught.
        answers: the teacher's, by tap.
    """
    if term.sample_weights != "none":
        student, teacher = seen[OUTPUT], answers[OUTPUT]
        compared = method.embeddings and OUTPUT in (*term.student, *term.teacher)
        if compared or student.ndim != 2 or student.shape != teacher.shape:
            raise ConfigError(
                f"{term.label}: sample_weights = {term.sample_weights!r} reads class scores at {OUTPUT!r}; the student "
                f"gives {tuple(student.shape[1:])} there, the teacher {tuple(teacher.shape[1:])}, which are no scores "
                "of the same classes; leave sample_weights out"
            )
    if method.loss is DetectionImitationLoss:
        try:
            check_probabilities(answers[term.teacher[0]])
        except ValueError as error:
            raise ConfigError(f"{term.label}: {error}") from error
