"""From the distillation part of a recipe to teachers, and to the task that learns from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from facekd.distill.answers import needed_taps
from facekd.distill.cache import BATCH, FixedPictures, TeacherCache
from facekd.distill.schedules import constant
from facekd.distill.settings import DistillSettings, TeacherFile, Term, teachers_of
from facekd.distill.task import DistilledTask
from facekd.distill.teachers import EmaTeacher, OnlineTeacher, OnnxTeacher, Teacher, TeacherEnsemble, TorchTeacher
from facekd.distill.yunet import YuNetTeacher
from facekd.engine.export import load_onnx_weights
from facekd.engine.task import Task
from facekd.errors import ConfigError

Architectures = Mapping[str, Callable[..., nn.Module]]
LINE_SECONDS = 30.0  # between two lines of a log


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
        raise ConfigError(
            f"teacher {name!r}: no file {path}; train it first, or pass --teacher {name}=FILE "
            f"(to facekd train: --set distill.teachers.{name}.file=FILE)"
        )
    if settings.layout == "yunet":
        try:
            return YuNetTeacher(path, threads=settings.threads, **settings.options)
        except TypeError as error:
            raise ConfigError(f"teacher {name!r}: {error}") from error
    if not settings.architecture:
        return OnnxTeacher(path, settings.mean, settings.scale, taps, settings.threads)
    network = build_network(architectures, settings.architecture, settings.options)
    if path.suffix != ".onnx":
        return TorchTeacher.from_safetensors(network, path, settings.mean, settings.scale)
    load_onnx_weights(network, path)
    return TorchTeacher(network, settings.mean, settings.scale)


class _Named(Protocol):
    """A recipe's part with teachers; see `DistillSettings`."""

    @property
    def teachers(self) -> Mapping[str, TeacherFile]: ...

    @property
    def terms(self) -> Sequence[Term]: ...


def on_disk(settings: _Named) -> list[str]:
    """Names of the teachers with files."""
    return [name for name, item in settings.teachers.items() if item.kind == "file"]


def stored(settings: _Named) -> list[str]:
    """Names of the teachers whose answers lie with the data."""
    return [name for name, item in settings.teachers.items() if item.kind == "stored"]


def asked(settings: _Named) -> set[str]:
    """Names of the teachers that a run needs; see `teachers_of`."""
    return teachers_of(settings.terms, settings.teachers)


def file_teacher(name: str, settings: _Named, architectures: Architectures, file: Path | None = None) -> Teacher:
    """One of `on_disk`, with what the terms tap of it exposed."""
    taps = needed_taps(name, settings.terms)
    return open_teacher(name, settings.teachers[name], architectures, taps, file)


def cached_answers(
    settings: DistillSettings, architectures: Architectures, pictures: FixedPictures
) -> dict[str, TeacherCache]:
    """What the recipe's teachers with a `cache` say about every picture, by their names; asked once.

    Teachers that no term asks are left out.

    Raises:
        ConfigError: a term taps maps, and the pixels move afterwards.
        DataError: a cache is stale.
    """
    kept: dict[str, TeacherCache] = {}
    for name in on_disk(settings):
        folder = settings.teachers[name].cache
        if folder is None or name not in asked(settings):
            continue
        teacher, taps = file_teacher(name, settings, architectures), needed_taps(name, settings.terms)
        teacher.check(taps)
        first = teacher.answer(pictures.take(0, min(BATCH, pictures.count)), taps)
        if pictures.moved_by and (maps := [tap for tap in taps if first[tap].ndim > 2]):
            raise ConfigError(
                f"teacher {name!r}: cache would keep the maps at {', '.join(maps)} of crops as they are, and "
                f"{', '.join(pictures.moved_by)} move what the student sees: set those to 0, or leave cache out"
            )
        kept[name] = TeacherCache.build(folder, teacher, taps, pictures, progress=partial(say_how_far, name=name))
    return kept


def say_how_far(starts: Sequence[int], name: str) -> Iterator[int]:
    """Go through the batches that a teacher is asked about, with a bar on stderr or, without a terminal, lines."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(starts, f"asking {name}", console=console, transient=True)
        return
    begun = last = time.monotonic()
    console.print(f"asking the teacher {name!r} about all training crops, once: {len(starts)} batches")
    for number, start in enumerate(starts, 1):
        yield start
        if (now := time.monotonic()) - last > LINE_SECONDS:
            last, left = now, (now - begun) * (len(starts) / number - 1)
            console.print(f"{name}: {number} of {len(starts)} batches, about {left / 60:.0f} min left")


def made_teachers(
    teachers: Mapping[str, TeacherFile],
    needed: Collection[str],
    student: nn.Module,
    architectures: Architectures,
    opened: Mapping[str, Teacher],
) -> dict[str, Teacher]:
    """The teachers that are made for a run: averages, networks trained beside the student, ensembles.

    Args:
        teachers: that the recipe names.
        needed: names of those that the run needs, members of its ensembles included.
        student: of which averages are taken.
        architectures: that the stage knows.
        opened: those on disk, which ensembles may have as members.
    """
    made: dict[str, Teacher] = {}
    chosen = {name: item for name, item in teachers.items() if name in needed}
    for name, item in chosen.items():
        if item.kind == "ema":
            made[name] = EmaTeacher(student, item.decay)
        elif item.kind == "online":
            made[name] = OnlineTeacher(build_network(architectures, item.architecture, item.options))
    for name, item in chosen.items():
        if item.kind == "ensemble":
            known = {**opened, **made}
            members = [known[member] for member in item.members]
            try:
                made[name] = TeacherEnsemble(members, item.weights, **item.options)
            except TypeError as error:
                raise ConfigError(f"teacher {name!r}: {error}; an ensemble's option is temperature") from error
    return made


def distil(
    base: Task,
    settings: DistillSettings,
    architectures: Architectures,
    *,
    seed: int = 0,
    stored_teachers: Mapping[str, Teacher] | None = None,
    centres: Mapping[str, Tensor] | None = None,
) -> Task:
    """The base task, or, where the recipe distils, the task that learns from its teachers, too.

    Views, mixtures and a weight of the task's own loss are a recipe's without any teacher, too.

    Args:
        base: the stage's own.
        settings: the recipe's.
        architectures: that the stage knows.
        seed: of views and mixtures.
        stored_teachers: teachers whose answers come with the batches, those with a `cache` among them.
        centres: class centres of teachers by name.

    Raises:
        ConfigError: stored answers that this stage's data do not have, a cache that it cannot use, and whatever the
            `Distiller` refuses.
    """
    if not settings.terms:
        plain = settings.view is None and settings.mix is None and settings.task_weight == constant(1.0)
        return base if plain else DistilledTask(base, {}, settings, centres, seed)
    needed = asked(settings)
    known = {name: teacher for name, teacher in (stored_teachers or {}).items() if name in needed}
    missing = needed.intersection(stored(settings)) - set(known)
    if missing:
        raise ConfigError(f"no answers of {', '.join(sorted(missing))} lie with the data; name a file = PATH instead")
    live = [name for name in on_disk(settings) if name in needed and name not in known]
    for name in live:
        if settings.teachers[name].cache is not None:
            raise ConfigError(
                f"teacher {name!r}: the batches of this task are no rows of a fixed set of crops, so answers to those "
                "cannot be kept; leave cache out"
            )
    opened = {name: file_teacher(name, settings, architectures) for name in live}
    made = made_teachers(settings.teachers, needed, base.student, architectures, opened)
    return DistilledTask(base, {**known, **opened, **made}, settings, centres, seed)
