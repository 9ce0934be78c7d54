"""What a fixed teacher says about the batches of a comparison, kept on disk: with one seed all rows see the same
batches, augmentation included, so a teacher need be asked once for all of them."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from facekd.distill.settings import Term
from facekd.distill.taps import OUTPUT
from facekd.distill.task import ANSWERS, PICTURES
from facekd.distill.teachers import Answers, Teacher
from facekd.engine.task import Task
from facekd.whole_files import whole_file


class BatchAnswers:
    """Answers of fixed teachers by the content of the batch: another batch or teacher has another name on disk, so
    nothing here can be stale.

    Vectors are kept as they are, maps as float16. Where everything would not fit into the limit, vectors alone are
    kept, and whoever needs maps asks the teacher itself.

    Args:
        folder: made when missing.
        teachers: with a digest.
        terms: of all rows: what is tapped of a teacher is asked for at once.
        batches: how many different ones there will be.
        limit_bytes: of disk.
        members: of each ensemble, by its name.
    """

    def __init__(
        self,
        folder: Path,
        teachers: Mapping[str, Teacher],
        terms: Sequence[Term],
        batches: int,
        limit_bytes: int,
        members: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._folder = folder
        self._teachers = dict(teachers)
        tapped = {name: needed_taps(name, terms, members or {}) for name in teachers}
        self._taps = {name: taps for name, taps in tapped.items() if taps}
        self._batches, self._limit = batches, limit_bytes
        self._kept: dict[str, tuple[str, ...]] | None = None
        self._lock = threading.Lock()  # a network whose layers are tapped by two threads would mix their pictures

    def kept(self, pictures: Tensor) -> dict[str, tuple[str, ...]]:
        """What is kept of each teacher, judged by its answers to the first batch."""
        if self._kept is None:
            given = {name: self._teachers[name].answer(pictures, taps) for name, taps in self._taps.items()}
            sizes = {(name, tap): _packed(value).nbytes for name, taps in given.items() for tap, value in taps.items()}
            fits = sum(sizes.values()) * self._batches <= self._limit
            self._kept = {
                name: tuple(tap for tap in taps if fits or given[name][tap].ndim <= 2)
                for name, taps in self._taps.items()
            }
        return self._kept

    def through(self, teachers: Mapping[str, Teacher]) -> dict[str, Teacher]:
        """The same teachers, for an ensemble to ask: each says once what it thinks of a batch, whoever asks."""
        return {
            name: _KeptTeacher(name, teacher, self) if name in self._taps else teacher
            for name, teacher in teachers.items()
        }

    def with_answers(self, base: Task, terms: Sequence[Term]) -> Task:
        """A task whose batches bring the answers of those teachers of which all that the terms tap is kept."""
        batch = base.batch(0) if self._taps else None
        if not isinstance(batch, Mapping) or PICTURES not in batch:
            return base
        kept = self.kept(batch[PICTURES])
        needed = {name: needed_taps(name, terms) for name in kept}
        ready = {name: taps for name, taps in needed.items() if taps and set(taps) <= set(kept[name])}
        return cast(Task, _AnsweredTask(base, self, ready)) if ready else base

    def answer(self, name: str, pictures: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """What one teacher gives for a batch at the taps, from disk or, the first time, from the teacher."""
        teacher = self._teachers[name]
        content = hashlib.blake2b(pictures.contiguous().cpu().numpy().data, digest_size=16).hexdigest()
        path = self._folder / teacher.digest[:16] / f"{content}.npz"
        try:
            with np.load(path) as stored:
                return {tap: torch.from_numpy(stored[tap].astype(np.float32)) for tap in taps}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            pass  # not there yet, without a tap that a later recipe asks for, or torn: asked again
        with self._lock, torch.no_grad():
            given = teacher.answer(pictures, self.kept(pictures)[name])
        arrays: dict[str, Any] = {tap: _packed(value) for tap, value in given.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            np.savez(part, **arrays)
        return {tap: given[tap].float() for tap in taps}


class _KeptTeacher:
    """A member of an ensemble; see `BatchAnswers.through`."""

    def __init__(self, name: str, teacher: Teacher, answers: BatchAnswers) -> None:
        self.digest = teacher.digest
        self._name, self._teacher, self._answers = name, teacher, answers

    def check(self, taps: Sequence[str]) -> None:
        """See `Teacher`."""
        self._teacher.check(taps)

    def answer(self, pictures: Tensor, taps: Sequence[str]) -> Answers:
        """See `Teacher`."""
        if not set(taps) <= set(self._answers.kept(pictures).get(self._name, ())):
            return self._teacher.answer(pictures, taps)
        given = self._answers.answer(self._name, pictures, taps)
        return {tap: value.to(pictures.device) for tap, value in given.items()}


class _AnsweredTask:
    """A task whose batches bring answers; everything else is the base's."""

    def __init__(self, base: Task, answers: BatchAnswers, taps: Mapping[str, Sequence[str]]) -> None:
        self._base, self._answers, self._taps = base, answers, taps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def batch(self, step: int) -> dict[str, Tensor]:
        """The base's batch with `answers/TEACHER/TAP` beside it."""
        batch: dict[str, Tensor] = dict(self._base.batch(step))
        for name, taps in self._taps.items():
            for tap, value in self._answers.answer(name, batch[PICTURES], taps).items():
                batch[f"{ANSWERS}{name}/{tap}"] = value
        return batch


def needed_taps(
    name: str, terms: Sequence[Term], members: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """What the terms tap of a teacher: class scores, too, where photographs are weighed by them, and where an ensemble
    is asked that has it as a member."""
    own = [term for term in terms if term.source in ("", name)]
    taps = [tap for term in own for tap in term.teacher]
    mixed = any(name in (members or {}).get(term.source, ()) for term in terms)
    scores = mixed or any(term.sample_weights != "none" for term in own)
    return tuple(dict.fromkeys([*taps, *([OUTPUT] if scores else [])]))


def _packed(value: Tensor) -> np.ndarray:
    array = value.detach().float().cpu().numpy()
    small = array.ndim > 2 and np.abs(array).max(initial=0) < np.finfo(np.float16).max
    return array.astype(np.float16) if small else array
