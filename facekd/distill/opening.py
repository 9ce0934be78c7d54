"""From the distillation part of a recipe to teachers, and to the task that learns from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from facekd.distill.settings import DistillSettings, TeacherFile, Term
from facekd.distill.task import DistilledTask
from facekd.distill.teachers import EmaTeacher, OnnxTeacher, Teacher, TorchTeacher
from facekd.engine.export import load_onnx_weights
from facekd.engine.task import Task
from facekd.errors import ConfigError

Architectures = Mapping[str, Callable[..., nn.Module]]


def build_network(architectures: Architectures, name: str, options: Mapping[str, Any]) -> nn.Module:
    """A stage's network by name.

    Raises:
        ConfigError: an unknown name or argument; the message lists the names.
    """
    if name not in architectures:
        raise ConfigError(f"unknown architecture {name!r}; known are {', '.join(architectures)}")
    try:
        return architectures[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from error


def teacher_taps(name: str, terms: Sequence[Term]) -> list[str]:
    """What the terms tap of one teacher."""
    return [tap for term in terms if term.source in ("", name) for tap in term.teacher]


def open_teacher(
    name: str, settings: TeacherFile, architectures: Architectures, taps: Sequence[str], file: Path | None = None
) -> Teacher:
    """A teacher from its file: one of our architectures with any layer to tap, or an ONNX file as it is.

    Args:
        name: for messages.
        settings: the recipe's.
        architectures: that the stage knows.
        taps: values inside an ONNX graph to expose.
        file: replaces the recipe's.

    Raises:
        ConfigError: no such file, or an unknown architecture.
        ModelError: the file does not fit.
    """
    path = file or settings.file
    if path is None or not path.is_file():
        raise ConfigError(f"teacher {name!r}: no file {path}; train it first, or pass --teacher {name}=FILE")
    if not settings.architecture:
        return OnnxTeacher(path, settings.mean, settings.scale, taps)
    network = build_network(architectures, settings.architecture, settings.options)
    if path.suffix != ".onnx":
        return TorchTeacher.from_safetensors(network, path)
    load_onnx_weights(network, path)
    return TorchTeacher(network)


def distil(
    base: Task,
    settings: DistillSettings,
    architectures: Architectures,
    *,
    seed: int = 0,
    stored: Mapping[str, Teacher] | None = None,
    centres: Tensor | None = None,
    extras: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
) -> Task:
    """The base task, or, where the recipe distils, the task that learns from its teachers, too.

    Args:
        base: the stage's own.
        settings: the recipe's.
        architectures: that the stage knows.
        seed: of views and mixtures.
        stored: teachers whose answers come with the batches.
        centres: the teacher's class centres.
        extras: what methods need beyond the batch, from the pictures that the student sees.
    """
    if not settings.terms:
        return base
    teachers: dict[str, Teacher] = dict(stored or {})
    for name, item in settings.teachers.items():
        teachers[name] = (
            EmaTeacher(base.student, item.decay)
            if item.kind == "ema"
            else open_teacher(name, item, architectures, teacher_taps(name, settings.terms))
        )
    return DistilledTask(base, teachers, settings, centres, seed, extras)
