"""What becomes of each face of one enrolment: judged by itself, beside the person's others, beside everybody else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facekd.errors import EnrolmentRefused
from facekd.gallery.decision import Candidate
from facekd.gallery.fusion import planned
from facekd.gallery.policy import EnrolmentPolicy, FaceLike, refusal
from facekd.gallery.records import NewTemplate, StoredTemplate, check_template

AnyTemplate = FaceLike | NewTemplate | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Warned:
    """Something told about a face that was enrolled all the same.

    Attributes:
        position: which of the faces handed in.
        code: a key of :data:`facekd.gallery.policy.WARNINGS`.
        other: for ``belongs-to-other``, the name under which the face is enrolled already.
        score: the cosine that gave rise to it, where one did.
    """

    position: int
    code: str
    other: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What :meth:`Gallery.enrol` did, by position among the faces handed in.

    Attributes:
        person: the name.
        enrolled: positions.
        refused: positions with the reason.
        warnings: what is worth telling.
        ids: of the templates of ``enrolled``, in that order; None for what is part of a template of several alone.
    """

    person: str
    enrolled: tuple[int, ...]
    refused: tuple[tuple[int, EnrolmentRefused], ...]
    warnings: tuple[Warned, ...]
    ids: tuple[int | None, ...] = ()


class Admission:
    """One enrolment in the making: :meth:`look`, then :meth:`compare`, then :meth:`note_second_names`.

    Args:
        policy: the rules.
        dimension: length of a template.
    """

    def __init__(self, policy: EnrolmentPolicy, dimension: int) -> None:
        self._policy = policy
        self._dimension = dimension
        self._refused: dict[int, EnrolmentRefused] = {}
        self._warnings: list[Warned] = []
        self._kept: dict[int, NewTemplate] = {}
        self._own: Sequence[StoredTemplate] = ()
        self._ids: dict[int, int] = {}

    @property
    def templates(self) -> list[NewTemplate]:
        """What was not refused, a template a photograph."""
        return list(self._kept.values())

    def plan(self) -> tuple[list[int], list[NewTemplate]]:
        """Ids of templates whose place is taken, and what is to be stored (:func:`facekd.gallery.fusion.planned`)."""
        return planned(self._own, self.templates, self._policy.fusion)

    def look(self, faces: Sequence[AnyTemplate]) -> None:
        """Judge each face by itself.

        Raises:
            ConfigError: something is no embedding of this gallery's kind.
        """
        for position, face in enumerate(faces):
            if isinstance(face, NewTemplate):
                check_template(face.embedding, self._dimension)
                self._kept[position] = face
            elif isinstance(face, np.ndarray):
                self._kept[position] = NewTemplate(check_template(face, self._dimension))
            else:
                self._look_at(position, face)

    def _look_at(self, position: int, face: FaceLike) -> None:
        try:
            codes = self._policy.check(face)
        except EnrolmentRefused as error:
            self._refused[position] = error
            return
        embedding = check_template(face.embedding, self._dimension)
        crop = np.asarray(face.crop) if self._policy.keep_crops else None
        self._kept[position] = NewTemplate(embedding, float(face.quality.score), face.mask.status, crop)
        self._warnings += [Warned(position, code) for code in codes]

    def compare(self, present: Sequence[StoredTemplate]) -> None:
        """Judge the faces beside those that the person already has, and beside each other in their order."""
        policy = self._policy
        self._own = present
        replaced, _ = self.plan()
        own = [template.embedding for template in present if template.id not in replaced]
        for position, template in list(self._kept.items()):
            likeness = np.array(own, np.float32).reshape(-1, self._dimension) @ template.embedding
            best = float(likeness.max()) if own else None
            if best is not None and best >= policy.same_photograph_cosine:
                self._refuse(position, refusal("already-enrolled"))
            elif len(own) >= policy.max_templates:
                self._refuse(position, refusal("template-limit", f"the limit is {policy.max_templates}"))
            else:
                if best is not None and best < policy.unlike_cosine:
                    self._warnings.append(Warned(position, "unlike-others", score=best))
                own.append(template.embedding)

    def note_second_names(self, name: str, found: Sequence[Sequence[Candidate]], threshold: float) -> None:
        """Warn of faces that are enrolled under another name.

        Args:
            name: the person who is being enrolled.
            found: the two nearest people, or more, of each of :attr:`templates`.
            threshold: cosine from which two templates are taken for one face.
        """
        for position, people in zip(self._kept, found, strict=True):
            others = [candidate for candidate in people if candidate.person != name]
            if others and others[0].score >= threshold:
                self._warnings.append(Warned(position, "belongs-to-other", others[0].person, others[0].score))

    def note_ids(self, stored: Sequence[NewTemplate], ids: Sequence[int]) -> None:
        """Note under which ids what :meth:`plan` gave was stored."""
        of_template = {id(template): identifier for template, identifier in zip(stored, ids, strict=True)}
        kept = ((position, of_template.get(id(template))) for position, template in self._kept.items())
        self._ids = {position: identifier for position, identifier in kept if identifier is not None}

    def result(self, name: str) -> Enrolment:
        """The report."""
        warnings = [warned for warned in self._warnings if warned.position in self._kept]
        return Enrolment(
            person=name,
            enrolled=tuple(self._kept),
            refused=tuple(sorted(self._refused.items())),
            warnings=tuple(sorted(warnings, key=lambda warned: warned.position)),
            ids=tuple(self._ids.get(position) for position in self._kept),
        )

    def _refuse(self, position: int, error: EnrolmentRefused) -> None:
        del self._kept[position]
        self._refused[position] = error
