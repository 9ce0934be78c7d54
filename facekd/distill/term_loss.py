"""The loss of a term, built and checked before the first step: whatever would fail or mean nothing later is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from facekd.distill.detection import DetectionImitationLoss, check_probabilities
from facekd.distill.methods import Method, build_loss
from facekd.distill.schedules import Schedule
from facekd.distill.settings import Term
from facekd.distill.taps import OUTPUT, Captured
from facekd.errors import ConfigError

ROWS = 4  # photographs that a loss is tried on: every relation has enough, however small the example


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


@torch.no_grad()
def try_loss(
    term: Term, method: Method, loss: nn.Module, adapters: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]]
) -> None:
    """Call a term's loss once on the example.

    Args:
        term: of a recipe.
        method: the term's.
        loss: as it was built; nothing of it moves.
        adapters: one for each pair.
        pairs: what student and teacher give at the term's taps.

    Raises:
        ConfigError: the loss cannot compare them.
    """
    # Features may be bf16, or on another device than parts that were just made.
    between, where = _device(adapters), _device(loss)
    modes = adapters.training, loss.training
    adapters.eval()
    loss.eval()
    try:
        with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):  # a mask must not move the seed
            sides = [[_repeated(side).to(between, torch.float32) for side in pair] for pair in pairs]
            met = [adapter(*pair) for adapter, pair in zip(cast(nn.ModuleList, adapters), sides, strict=True)]
            students, teachers = (tuple(side.to(where) for side in column) for column in zip(*met, strict=True))
            extras = _made_up(method, students[0])
            if method.taps == 1:
                loss(students[0], teachers[0], **extras)
            else:
                loss(students, teachers, **extras)
    except (IndexError, RuntimeError, ValueError) as error:
        shapes = [f"{tuple(student.shape[1:])} and {tuple(teacher.shape[1:])}" for student, teacher in pairs]
        raise ConfigError(
            f"{term.label}: {term.method} cannot compare the student's {', '.join(term.student)} with the teacher's "
            f"{', '.join(term.teacher)}, {', '.join(shapes)} for one photograph: {error}"
        ) from error
    adapters.train(modes[0])
    loss.train(modes[1])


def _repeated(features: Tensor) -> Tensor:
    return features[torch.arange(ROWS, device=features.device) % len(features)]


def _made_up(method: Method, like: Tensor) -> dict[str, Tensor]:
    """What a method needs beside features, with any content that is allowed."""
    rows, places = len(like), like.shape[1] if like.ndim > 1 else 1
    known = {
        "labels": torch.zeros(rows, dtype=torch.long, device=like.device),
        "boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]], device=like.device),
        "photographs": torch.zeros(1, dtype=torch.long, device=like.device),
    }
    extras = {name: known[name] for name in method.needs}
    return extras | ({"anchors": torch.ones(places, 4, device=like.device)} if "anchors" in method.takes else {})


def _device(module: nn.Module) -> torch.device:
    return next((item.device for item in chain(module.parameters(), module.buffers())), torch.device("cpu"))
