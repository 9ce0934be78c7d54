"""Verification figures: ten-fold accuracy, TAR at FAR, equal error rate and the DET curve.

A comparison is accepted when its score is at least the threshold; scores are cosines, higher is more alike. In the
terms of ISO/IEC 19795-1, what the field calls FAR is here the false-match rate of single comparisons, and TAR is
1 - FNMR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
RATES = (1e-2, 1e-3, 1e-4, 1e-5)


def rate_label(rate: float) -> str:
    """How a rate is written as a key: ``1e-2`` for 0.01, ``5e-4`` for 0.0005, ``2.5e-3`` for 0.0025."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One threshold and what it does.

    Attributes:
        far: the share of non-mated comparisons asked for.
        threshold: least accepted score (a cosine) that keeps to it; above every non-mated score where the comparisons
            are too few to show the rate.
        tar: share of mated comparisons accepted there, in [0, 1]; NaN without mated comparisons.
        false_matches: how many non-mated comparisons are accepted: of fewer than about 30 the rate is a guess.
    """

    far: float
    threshold: float
    tar: float
    false_matches: int


def threshold_at_far(non_mated: Floats, far: float, total: int | None = None) -> tuple[float, int]:
    """The lowest threshold at which at most the share `far` of non-mated comparisons is accepted.

    Args:
        non_mated: (N,) scores; or only the highest of them, with `total` saying how many there are in all.
        far: wanted share, in (0, 1].
        total: number of non-mated comparisons, N if not given.

    Returns:
        (threshold, number of non-mated comparisons accepted by it). The threshold is the next number above the highest
        score that must be refused, so it is exact for the scores' own precision.

    Raises:
        ValueError: there is no non-mated comparison, `far` is out of range, or too few of the highest were handed in.
    """
    total = len(non_mated) if total is None else total
    if total == 0:
        raise ValueError("no non-mated comparisons: a false-accept rate needs at least one")
    if not 0 < far <= 1:
        raise ValueError(f"far is {far}; wanted a share in (0, 1]")
    allowed = int(np.floor(far * total + 1e-9))
    if allowed >= total:
        return -np.inf, total
    if allowed >= len(non_mated):
        raise ValueError(f"far {far} of {total} comparisons needs the {allowed + 1} highest, got {len(non_mated)}")
    refused = np.partition(non_mated, len(non_mated) - 1 - allowed)[len(non_mated) - 1 - allowed]
    threshold = np.nextafter(refused, refused.dtype.type(np.inf))
    return float(threshold), int((non_mated >= threshold).sum())


def tar_at_far(mated: Floats, non_mated: Floats, far: float, total: int | None = None) -> OperatingPoint:
    """True-accept rate at the threshold of `threshold_at_far`; arguments as there, `mated` (M,) scores."""
    threshold, false_matches = threshold_at_far(non_mated, far, total)
    tar = float((mated >= threshold).mean()) if len(mated) else float("nan")
    return OperatingPoint(far, threshold, tar, false_matches)


@dataclass(frozen=True, slots=True, eq=False)
class DetCurve:
    """The detection error trade-off: every threshold with its two errors.

    Attributes:
        thresholds: (P,) float64, falling, the first infinite (nothing accepted).
        fmr: (P,) share of non-mated comparisons accepted, rising from 0 to 1.
        fnmr: (P,) share of mated comparisons refused, falling from 1 to 0.
        mated, non_mated: how many comparisons of each kind the shares are of.
    """

    thresholds: NDArray[np.float64]
    fmr: NDArray[np.float64]
    fnmr: NDArray[np.float64]
    mated: int
    non_mated: int


def det_curve(mated: Floats, non_mated: Floats) -> DetCurve:
    """Both error rates at every score that occurs.

    Raises:
        ValueError: one of the two kinds of comparisons is missing.
    """
    if not len(mated) or not len(non_mated):
        raise ValueError(f"{len(mated)} mated and {len(non_mated)} non-mated comparisons: a curve needs both")
    thresholds = np.unique(np.concatenate([mated, non_mated]))[::-1].astype(np.float64)
    accepted = [len(kind) - np.searchsorted(np.sort(kind), thresholds, side="left") for kind in (mated, non_mated)]
    return DetCurve(
        thresholds=np.concatenate([[np.inf], thresholds]),
        fmr=np.concatenate([[0.0], accepted[1] / len(non_mated)]),
        fnmr=np.concatenate([[1.0], 1 - accepted[0] / len(mated)]),
        mated=len(mated),
        non_mated=len(non_mated),
    )


def equal_error_rate(mated: Floats, non_mated: Floats) -> float:
    """Where false-match and false-non-match rate meet on the DET curve, in [0, 1]; lower is better.

    Between two neighbouring thresholds the crossing is interpolated on the straight line between their points.
    """
    curve = det_curve(mated, non_mated)
    return crossing(curve.fmr, curve.fnmr)


def crossing(fmr: Floats, fnmr: Floats) -> float:
    """The value at which a rising and a falling curve, given point by point, meet."""
    after = int(np.argmax(fmr >= fnmr))
    if after == 0 or fmr[after] == fnmr[after]:
        return float(fmr[after])
    gap_before, gap_after = fnmr[after - 1] - fmr[after - 1], fmr[after] - fnmr[after]
    share = gap_before / (gap_before + gap_after)
    return float(fmr[after - 1] + share * (fmr[after] - fmr[after - 1]))


@dataclass(frozen=True, slots=True)
class FoldedAccuracy:
    """Accuracy by cross-validation.

    Attributes:
        mean: mean over folds, in [0, 1].
        std: standard deviation over folds (of the population, as the field reports it).
        accuracies, thresholds: fold by fold, in rising order of the fold's number.
    """

    mean: float
    std: float
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]


def best_threshold(scores: Floats, same: NDArray[np.bool_]) -> float:
    """The threshold of highest accuracy: the middle of the best interval, of the widest one where several are best."""
    order = np.argsort(scores, kind="stable")
    ordered, mates = scores[order].astype(np.float64), same[order]
    # Threshold between position k-1 and k: the k lowest are refused. Only between unequal scores is there room for one.
    right = np.concatenate([[0], np.cumsum(~mates)]) + np.concatenate([[mates.sum()], mates.sum() - np.cumsum(mates)])
    edges = np.concatenate([[ordered[0] - 1.0], ordered, [ordered[-1] + 1.0]])
    room = edges[1:] - edges[:-1]
    candidates = np.flatnonzero(room > 0)
    best = candidates[right[candidates] == right[candidates].max()]
    widest = best[np.argmax(room[best])]
    return float((edges[widest] + edges[widest + 1]) / 2)


def folded_accuracy(scores: Floats, same: NDArray[np.bool_], folds: NDArray[np.integer[Any]]) -> FoldedAccuracy:
    """Accuracy with the threshold of each fold chosen on the others (Huang et al. 2007, "Labeled Faces in the Wild",
    section IV: the estimated mean accuracy of view 2).

    Args:
        scores: (N,) cosines.
        same: (N,) whether a comparison is mated.
        folds: (N,) number of the fold that a comparison belongs to.

    Raises:
        ValueError: shapes differ, or there are fewer than two folds.

    Example:
        >>> scores, same = np.array([0.9, 0.1, 0.8, 0.2]), np.array([True, False, True, False])
        >>> folded_accuracy(scores, same, np.array([0, 0, 1, 1])).mean
        1.0
    """
    if not scores.shape == same.shape == folds.shape or scores.ndim != 1:
        raise ValueError(
            f"scores {scores.shape}, same {same.shape}, folds {folds.shape}: wanted one entry a comparison"
        )
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise ValueError(f"{len(numbers)} fold(s): cross-validation needs at least two")
    accuracies, thresholds = [], []
    for number in numbers:
        held_out = folds == number
        threshold = best_threshold(scores[~held_out], same[~held_out])
        thresholds.append(threshold)
        accuracies.append(float(((scores[held_out] >= threshold) == same[held_out]).mean()))
    return FoldedAccuracy(float(np.mean(accuracies)), float(np.std(accuracies)), tuple(accuracies), tuple(thresholds))


def verification_figures(
    scores: Floats, same: NDArray[np.bool_], folds: NDArray[np.integer[Any]], rates: Sequence[float] = (1e-2, 1e-3)
) -> dict[str, Any]:
    """The figures of a pair protocol, as the JSON of `facekd evaluate lfw` has them.

    Returns:
        ``{"accuracy", "std", "tar": {"1e-2", …}, "thresholds": {"1e-2", …}, "eer", "threshold", "pairs"}``: `threshold`
        is the mean over the folds of the accuracy, `thresholds` are those of the true-accept rates.
    """
    accuracy = folded_accuracy(scores, same, folds)
    points = [tar_at_far(scores[same], scores[~same], rate) for rate in rates]
    return {
        "accuracy": accuracy.mean,
        "std": accuracy.std,
        "tar": {rate_label(point.far): point.tar for point in points},
        "thresholds": {rate_label(point.far): point.threshold for point in points},
        "eer": equal_error_rate(scores[same], scores[~same]),
        "threshold": float(np.mean(accuracy.thresholds)),
        "pairs": len(scores),
    }
