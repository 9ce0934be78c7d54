"""Which photographs may be enrolled. A bad reference is worse than none: it answers to strangers for years."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from facekd.errors import ConfigError, EnrolmentRefused
from facekd.gallery.decision import SURE_OF_MASK
from facekd.gallery.fusion import FUSIONS, Fusion

REASONS = {
    "no-face": "no face was found: use a photograph that shows the face",
    "several-faces": "there are several faces: crop the photograph, or say which face is meant",
    "too-small": "the face is too small: use a larger photograph, or come closer",
    "blurred": "the face is blurred: use a sharper photograph",
    "masked": "the face is covered by a mask: take the mask off",
    "mask-unsure": "it is not clear whether the face is covered: take another photograph, with nothing before the face",
    "already-enrolled": "this very photograph is already enrolled for this person",
    "template-limit": "the person has as many templates as the policy allows: remove one of `facekd people show`",
    "unreadable": "the file is no picture that can be read",
    "no-photograph": "the person's folder holds no picture: put photographs into it, or remove it",
}
"""Why a photograph is refused: stable codes for scripts, with the words for people."""

WARNINGS = {
    "belongs-to-other": "this face is already enrolled under another name",
    "unlike-others": "this face resembles none of the person's other photographs: is it the right person?",
    "dark": "the face is dark",
    "bright": "the face is too bright",
    "turned": "the face is turned aside",
    "tilted": "the head is tilted",
}
"""What is enrolled all the same, but told."""


class MaskLike(Protocol):
    """What the policy asks of :class:`facekd.recognition.mask.MaskResult`."""

    @property
    def status(self) -> str:
        """``none``, ``mask`` or ``incorrect``."""

    @property
    def score(self) -> float:
        """How sure the head is, 0..1."""


def is_masked(status: str | None) -> bool:
    """Whether a face of this mask status counts as masked: a badly worn mask covers the face, too."""
    return status not in (None, "none")


class QualityLike(Protocol):
    """What the policy asks of :class:`facekd.recognition.quality.Quality`."""

    @property
    def score(self) -> float:
        """0..1, higher is better."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """What lowers the score."""


class FaceLike(Protocol):
    """What the policy asks of :class:`facekd.pipeline.Face`."""

    @property
    def box(self) -> npt.NDArray[np.float32]:
        """(4,) x1, y1, x2, y2 in pixels."""

    @property
    def crop(self) -> npt.NDArray[np.uint8]:
        """(112, 112, 3) RGB, aligned."""

    @property
    def embedding(self) -> npt.NDArray[np.float32]:
        """(D,) unit length."""

    @property
    def mask(self) -> MaskLike:
        """Mask status."""

    @property
    def quality(self) -> QualityLike:
        """Quality of the face as a reference."""


AnyFace = TypeVar("AnyFace", bound=FaceLike)


@dataclass(frozen=True, slots=True)
class EnrolmentPolicy:
    """The rules of enrolment.

    Attributes:
        min_face_px: shorter side of the face's box, pixels, below which a photograph is refused.
        background: faces shorter than this share of the largest face do not count as company (passers-by far behind).
        refuse: quality reasons that refuse; the other reasons warn.
        allow_masks: enrol masked and badly masked faces too, and those of which nobody is sure; their templates then
            answer to other masked faces.
        sure_of_mask: certainty that the mask head must give its answer, whatever that is, as at identification. Below,
            a photograph is refused as ``mask-unsure`` and not as ``masked``: another one may well do.
        max_templates: templates a person. Every template is one more chance for a stranger, and beyond a handful they
            add little.
        same_photograph_cosine: two templates this alike come from the same picture.
        same_person_fmr: another person's template that a stranger would match this seldom is reported as a second
            name of the same face.
        same_person_cosine: used instead where there is no calibration.
        unlike_cosine: a photograph less alike than this to every other of the person is reported. Strangers are below
            it nearly always, photographs of one person seldom.
        fusion: ``none``: a template a photograph. ``instead``: the photographs of one enrolment become one template,
            which recognises more of the person's other photographs. ``beside``: each is kept, and one template of all
            with them, renewed as photographs come and go. See :mod:`facekd.gallery.fusion` for what it counts as.
        keep_crops: store the aligned crop beside the template, for re-embedding after a model upgrade.
    """

    min_face_px: float = 48.0
    background: float = 0.25
    refuse: frozenset[str] = frozenset({"too-small", "blurred"})
    allow_masks: bool = False
    sure_of_mask: float = SURE_OF_MASK
    max_templates: int = 20
    same_photograph_cosine: float = 0.9999
    same_person_fmr: float = 1e-4
    same_person_cosine: float = 0.5
    unlike_cosine: float = 0.15
    keep_crops: bool = False
    fusion: Fusion = "none"

    def __post_init__(self) -> None:
        unknown = self.refuse - {"too-small", "blurred", "dark", "bright", "turned", "tilted"}
        if unknown:
            raise ConfigError(f"unknown quality reasons {sorted(unknown)} in the enrolment policy")
        if self.max_templates < 1:
            raise ConfigError(f"max_templates must be at least 1, got {self.max_templates}")
        if self.fusion not in FUSIONS:
            raise ConfigError(f"fusion must be one of {', '.join(FUSIONS)}, got {self.fusion!r}")
        if self.keep_crops and self.fusion == "instead":
            raise ConfigError(
                "a template of several photographs has no crop: keep crops with fusion 'beside' or 'none'"
            )

    def choose(self, faces: Sequence[AnyFace], which: int | Literal["largest"] | None = None) -> AnyFace:
        """The one face of a photograph that is meant.

        Args:
            faces: all faces of the photograph.
            which: ``largest``, or the face's place from left to right starting at 1; None: there must be only one.

        Raises:
            EnrolmentRefused: ``no-face`` or ``several-faces``.
            ConfigError: the photograph has fewer faces than ``which``.
        """
        if not faces:
            raise refusal("no-face")
        largest = max(faces, key=_side)
        if which == "largest":
            return largest
        if which is not None:
            if not 1 <= which <= len(faces):
                raise ConfigError(f"face {which} was asked for, the photograph has {len(faces)}")
            return sorted(faces, key=lambda face: float(face.box[0] + face.box[2]))[which - 1]
        company = [face for face in faces if _side(face) >= self.background * _side(largest)]
        if len(company) > 1:
            raise refusal("several-faces", f"{len(company)} were found")
        return largest

    def check(self, face: FaceLike) -> tuple[str, ...]:
        """Refuse a face that would make a bad reference.

        Returns:
            Codes of what is worth a warning.

        Raises:
            EnrolmentRefused: with one of the codes of :data:`REASONS`.
        """
        if _side(face) < self.min_face_px:
            raise refusal("too-small", f"its shorter side has {_side(face):.0f} px, wanted {self.min_face_px:.0f}")
        for reason in face.quality.reasons:
            if reason in self.refuse:
                raise refusal(reason)
        if not self.allow_masks:
            if face.mask.score < self.sure_of_mask:
                raise refusal("mask-unsure", f"{face.mask.status} with a certainty of {face.mask.score:.2f}")
            if face.mask.status != "none":
                raise refusal("masked")
        return tuple(face.quality.reasons)


def refusal(reason: str, detail: str = "") -> EnrolmentRefused:
    """The error for a reason code: what is wrong, and what to do."""
    words = REASONS.get(reason) or f"the face is {reason}: use another photograph"
    return EnrolmentRefused(f"{words} ({detail})" if detail else words, reason)


def _side(face: FaceLike) -> float:
    return float(min(face.box[2] - face.box[0], face.box[3] - face.box[1]))
