"""From scores to an answer: a person, nobody, or "try again", and how often such an answer is wrong.

Terms are those of ISO/IEC 2382-37 and 19795-1: FMR is the share of non-mated comparisons at or above the threshold,
FPIR the share of probes of people who are not enrolled that return somebody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from facekd.errors import ConfigError
from facekd.gallery.calibration import Calibration

Outcome = Literal["match", "nobody", "try-again"]
VerificationOutcome = Literal["same", "different", "try-again"]

ACCESS_FPIR = 0.001
"""The default of ``--fpir``: one stranger in a thousand attempts."""

VERIFY_FMR = 0.0001
"""The default of ``--fmr``."""

MIN_MARGIN = 0.05
"""Cosine. Two people this close are told apart by chance rather than by their faces."""

SURE_OF_MASK = 0.6
"""Share of certainty that the mask head must give its answer; below, the crop is a poor one or half covered."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody enrolled, and the best cosine between the probe and one of that person's templates."""

    person: str
    score: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to "who is this?".

    Attributes:
        person: who it is; None unless ``outcome`` is ``match``.
        outcome: ``match``, ``nobody``, or ``try-again``: not to be granted, ask for another photograph.
        reason: why to try again, ``ambiguous`` or ``mask-unsure``; None otherwise.
        score: the best cosine in the gallery, -1..1, higher is more alike; None where the gallery is empty.
        threshold: the cosine that had to be reached.
        best: who has that score, whatever the outcome; for operators and logs, never a grant.
        runner_up: the best other person.
        margin: ``score`` less the runner-up's; None without one.
        fpir: expected share of strangers who would be given a name at this threshold in this gallery; None where the
            threshold was set by hand and no calibration is at hand.
        fpir_upper: upper end of its 95 % interval; None where the calibration has no intervals.
        extrapolated: True when the calibration's data cannot show a rate so small.
    """

    person: str | None
    outcome: Outcome
    reason: str | None
    score: float | None
    threshold: float
    best: str | None
    runner_up: Candidate | None
    margin: float | None
    fpir: float | None
    fpir_upper: float | None
    extrapolated: bool

    def to_dict(self) -> dict[str, Any]:
        """The JSON form of ``facekd identify``; ``best`` is left out, so that no script takes it for an answer."""
        runner_up = None if self.runner_up is None else {"person": self.runner_up.person, "score": self.runner_up.score}
        return {
            "person": self.person,
            "outcome": self.outcome,
            "reason": self.reason,
            "score": self.score,
            "threshold": self.threshold,
            "runner_up": runner_up,
            "margin": self.margin,
            "fpir": self.fpir,
            "fpir_upper": self.fpir_upper,
            "extrapolated": self.extrapolated,
        }


@dataclass(frozen=True, slots=True)
class Verification:
    """The answer to "are these the same person?"; attributes as in :class:`Decision`, rates for one claim.

    Attributes:
        same: True only when ``outcome`` is ``same``.
        outcome: ``same``, ``different``, or ``try-again``: not to be granted, ask for another photograph.
        reason: why to try again, ``mask-unsure``; None otherwise.
    """

    same: bool
    outcome: VerificationOutcome
    reason: str | None
    score: float
    threshold: float
    fmr: float | None
    fmr_upper: float | None
    extrapolated: bool

    def to_dict(self) -> dict[str, Any]:
        """The JSON form of ``facekd verify``."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Limit:
    """A threshold together with the error that it allows."""

    threshold: float
    error: float | None
    upper: float | None
    extrapolated: bool


def check_error_rate(error: float) -> None:
    """Refuse what is no rate that can be asked for.

    Raises:
        ConfigError: it is not between 0 and 1, both excluded.
    """
    if not 0.0 < error < 1.0:
        raise ConfigError(f"an error rate must lie between 0 and 1, got {error}: 0.001 is one in a thousand")


def limit_for(
    calibration: Calibration | None, error: float, comparisons: int, threshold: float | None, *, masked: bool = False
) -> Limit:
    """Choose the threshold for an error rate over several comparisons, or state the error of a given threshold.

    A stranger is compared with every template, so the chance of at least one false match is at most the number of
    comparisons times the FMR (Boole's inequality). It holds however much one person's templates resemble each other,
    and is close where errors are rare: at most 5 % too careful up to an FPIR of 0.1.

    Args:
        calibration: of the embedder in use.
        error: the wanted FPIR, or FMR for one claim.
        comparisons: how many templates the probe is compared with.
        threshold: a cosine set by hand, which wins over ``error``.
        masked: the probe wears a mask; counts where the calibration knows masked probes.

    Raises:
        ConfigError: an error rate outside 0..1, or neither calibration nor threshold.
    """
    comparisons = max(1, comparisons)
    if threshold is not None:
        if not -1.0 <= threshold <= 1.0:
            raise ConfigError(f"a threshold is a cosine, -1 to 1, got {threshold}")
        if calibration is None:
            return Limit(threshold, None, None, True)
    else:
        check_error_rate(error)
        if calibration is None:
            raise ConfigError("no calibration for this embedder: run `facekd calibrate`, or name a threshold yourself")
        threshold = calibration.threshold(error / comparisons, masked=masked)
    rate = calibration.rate(threshold, masked=masked)
    upper = None if rate.upper is None else min(1.0, comparisons * rate.upper)
    return Limit(threshold, min(1.0, comparisons * rate.value), upper, rate.extrapolated)


def compare(
    one: npt.NDArray[np.float32],
    other: npt.NDArray[np.float32],
    calibration: Calibration | None,
    *,
    fmr: float = VERIFY_FMR,
    threshold: float | None = None,
    masked: bool = False,
    mask_score: float | None = None,
) -> Verification:
    """Check whether two faces are the same person's.

    Args:
        one: (D,) unit length.
        other: (D,) unit length, of the same embedder.
        calibration: of that embedder.
        fmr: how many pairs of different people in one may pass.
        threshold: a cosine set by hand instead.
        masked: one of the faces wears a mask.
        mask_score: how sure the mask head is of its answers, 0..1, of the two the less sure; None where it was not
            asked.
    """
    score = min(1.0, float(one @ other))
    return check_claim(score, limit_for(calibration, fmr, 1, threshold, masked=masked), mask_score=mask_score)


def check_claim(score: float, limit: Limit, *, mask_score: float | None = None) -> Verification:
    """Answer from the score of two faces, or of a face and a person.

    Args:
        score: the cosine, at most 1.
        limit: the threshold and its error.
        mask_score: how sure the mask head is, 0..1; None where it was not asked. As at identification, a face of which
            it is not sure is never granted: no calibration has such faces.
    """
    outcome: VerificationOutcome = "same" if score >= limit.threshold else "different"
    reason = None
    if outcome == "same" and mask_score is not None and mask_score < SURE_OF_MASK:
        outcome, reason = "try-again", "mask-unsure"
    return Verification(
        same=outcome == "same",
        outcome=outcome,
        reason=reason,
        score=score,
        threshold=limit.threshold,
        fmr=limit.error,
        fmr_upper=limit.upper,
        extrapolated=limit.extrapolated,
    )


def decide(
    candidates: Sequence[Candidate], limit: Limit, *, mask_score: float | None = None, min_margin: float = MIN_MARGIN
) -> Decision:
    """Answer from the best candidates.

    Args:
        candidates: different people by falling score; two are enough.
        limit: the threshold and its error.
        mask_score: how sure the mask head is of its answer, 0..1; None where it was not asked.
        min_margin: cosine by which the best must lead the runner-up.
    """
    best = candidates[0] if candidates else None
    runner_up = candidates[1] if len(candidates) > 1 else None
    margin = best.score - runner_up.score if best and runner_up else None
    outcome: Outcome = "match"
    reason = None
    if best is None or best.score < limit.threshold:
        outcome = "nobody"
    elif mask_score is not None and mask_score < SURE_OF_MASK:
        outcome, reason = "try-again", "mask-unsure"
    elif margin is not None and margin < min_margin:
        outcome, reason = "try-again", "ambiguous"
    return Decision(
        person=best.person if best and outcome == "match" else None,
        outcome=outcome,
        reason=reason,
        score=None if best is None else best.score,
        threshold=limit.threshold,
        best=None if best is None else best.person,
        runner_up=runner_up,
        margin=margin,
        fpir=limit.error,
        fpir_upper=limit.upper,
        extrapolated=limit.extrapolated,
    )
