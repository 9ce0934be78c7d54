"""What teachers have said about the training crops and is kept on disk, by the crops' numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekd.distill.cache import FixedPictures
from facekd.distill.class_centres import centres_of_parts
from facekd.distill.methods import find_method
from facekd.distill.settings import DistillSettings, source_of
from facekd.distill.taps import OUTPUT
from facekd.distill.task import ANSWERS
from facekd.distill.teachers import CachedTeacher, Teacher
from facekd.engine.digests import digest_of
from facekd.errors import ConfigError
from facekd.recognition.data.augment import Augmentation
from facekd.recognition.data.encoded import Crops
from facekd.recognition.data.shards import FaceSet
from facekd.recognition.data.stored_teacher import StoredEmbeddings
from facekd.zoo import Preprocessing

CHUNK = 8192  # crops, or answers to them, that are read at a time
MOVING = ("flip", "shift", "zoom", "rotate_degrees")  # what an augmentation does to places


class KeptAnswers(Protocol):
    """One teacher's answers, row i for crop i of the training set."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one crop's answer at each tap."""

    def rows(self, indices: NDArray[np.integer] | Sequence[int]) -> dict[str, Tensor]:
        """Answers float32 (len(indices), …) to the crops with these numbers, by tap."""


class StoredAnswers:
    """Embeddings that lie beside the crops; see `KeptAnswers`."""

    def __init__(self, embeddings: StoredEmbeddings) -> None:
        self._embeddings = embeddings

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `KeptAnswers`."""
        return {OUTPUT: self._embeddings.shape[1:]}

    def rows(self, indices: NDArray[np.integer] | Sequence[int]) -> dict[str, Tensor]:
        """See `KeptAnswers`; of unit length."""
        return {OUTPUT: torch.from_numpy(self._embeddings[indices])}


def fixed_crops(
    crops: Crops, preprocessing: Preprocessing, augmentation: Augmentation, keys: NDArray[np.uint64] | None = None
) -> FixedPictures:
    """The training crops as a teacher sees them, for its answers to be kept.

    Args:
        crops: all of them.
        preprocessing: of the student, and so of the teacher.
        augmentation: what batches undergo later.
        keys: names of the crops; without, their pixels are what tells them from others.
    """

    def take(start: int, stop: int) -> Tensor:
        pixels = torch.from_numpy(preprocessing.apply(crops[start:stop]))
        return pixels.cuda() if torch.cuda.is_available() else pixels

    def digest() -> str:
        prepared = np.frombuffer(preprocessing.model_dump_json().encode(), np.uint8)
        if keys is not None:
            return digest_of([prepared, keys])
        parts = (crops[start : start + CHUNK] for start in range(0, len(crops), CHUNK))
        return digest_of(chain([prepared], parts))

    moved_by = tuple(f"augmentation.{key}" for key in MOVING if getattr(augmentation, key))
    return FixedPictures(len(crops), take, digest, moved_by)


def stored_answers(faces: FaceSet) -> dict[str, KeptAnswers]:
    """What came with the crops, by the teacher's name."""
    return {name: StoredAnswers(embeddings) for name, embeddings in faces.teachers.items()}


def as_teachers(kept: Mapping[str, KeptAnswers]) -> dict[str, Teacher]:
    """Stand-ins for teachers that need not be at hand: their answers come with every batch."""
    return {name: CachedTeacher(answers.shapes) for name, answers in kept.items()}


def batch_answers(kept: Mapping[str, KeptAnswers], chosen: NDArray[np.integer] | Sequence[int]) -> dict[str, Tensor]:
    """The entries ``answers/TEACHER/TAP`` of a batch of these crops."""
    return {
        f"{ANSWERS}{name}/{tap}": rows for name, answers in kept.items() for tap, rows in answers.rows(chosen).items()
    }


def answers_centres(answers: KeptAnswers, faces: FaceSet) -> Tensor:
    """Class centres (P, T): mean directions of a teacher's embeddings of each person.

    Raises:
        ConfigError: the teacher gives no embeddings, or nobody is known.
    """
    known = np.flatnonzero(faces.labels >= 0)
    if not len(known) or len(answers.shapes.get(OUTPUT, ())) != 1:
        raise ConfigError("class centres need crops whose people are known, and a teacher's embeddings of them")
    starts = range(0, len(known), CHUNK)
    parts = (
        (answers.rows(part)[OUTPUT], torch.from_numpy(faces.labels[part]))
        for part in (known[start : start + CHUNK] for start in starts)
    )
    return centres_of_parts(parts, len(faces.people))


def wanted_centres(settings: DistillSettings, kept: Mapping[str, KeptAnswers], faces: FaceSet) -> dict[str, Tensor]:
    """The class centres that a recipe's terms ask for, by the teacher's name.

    Raises:
        ConfigError: a term's teacher has no answers to take them from.
    """
    found: dict[str, Tensor] = {}
    names = list(settings.teachers) or list(kept)
    for term in settings.terms:
        if "centres" not in find_method(term.method).given or (name := source_of(term, names)) in found:
            continue
        if name not in kept:
            raise ConfigError(
                f"{term.label} needs the class centres of its teacher {name!r}, which are taken from its answers to "
                f"all training crops: they are kept of {', '.join(kept) or 'nobody'}. Set source to one of those, or "
                "keep this teacher's answers, too (kind = 'stored', or cache = DIR beside file)"
            )
        found[name] = answers_centres(kept[name], faces)
    return found


def the_one(kept: Mapping[str, KeptAnswers], named: str, what: str, key: str) -> str:
    """The teacher that something is about: the one that is named, or the only one.

    Args:
        kept: those that could be meant, as far as they are embeddings.
        named: by the recipe; empty where it does not say.
        what: is about it, for messages.
        key: of the recipe that names it.

    Raises:
        ConfigError: there is none, several and none was named, or the name is no kept teacher's.
    """
    kept = {name: answers for name, answers in kept.items() if len(answers.shapes.get(OUTPUT, ())) == 1}
    if named in kept:
        return named
    if named:
        raise ConfigError(f"{key} = {named!r} names no teacher whose answers are kept; there are {', '.join(kept)}")
    if len(kept) != 1:
        choice = f"it could be that of {', '.join(kept)}: name one, {key} = NAME" if kept else "there is none"
        raise ConfigError(f"{what} needs a stored teacher with a term of its own; {choice}")
    return next(iter(kept))
