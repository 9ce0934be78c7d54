"""From comparisons to thresholds: which cosine has which false-match rate, with intervals over people.

Every pair of different people weighs alike in a false-match rate, and every person in a false-non-match rate, however
many photographs there are of them (see `facekd.evaluation.probe_sets`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.evaluation.bootstrap import weighted_threshold
from facekd.evaluation.probe_sets import Design, WeighedPairs, bootstrap_rates

CALIBRATION_RATES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
DISTRIBUTION_BINS = 200
"""Bins of the score distributions that an artefact carries: a hundredth of cosine each."""
LEAST_FALSE_MATCHES = 10
"""A rate seen in fewer false matches than this is not measured but guessed: the curve ends before it. They are counted
in comparisons of equal weight (`WeighedPairs.effective`). Plain counts would not do: one comparison of two people of
one photograph each weighs as much as 400 of two of twenty, and that it was no false match shows no small rate."""


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """One measured point of the false-match curve.

    Attributes:
        fmr: share of non-mated comparisons accepted, each pair of people weighing alike.
        threshold: least accepted cosine.
        fmr_lower, fmr_upper: 95 % interval of the rate at this threshold, by a bootstrap over people (BCa).
        fnmr: share of mated comparisons refused, each person weighing alike; None where there is none.
        people_pairs: how many different pairs of people the false matches come from.
    """

    fmr: float
    threshold: float
    fmr_lower: float
    fmr_upper: float
    fnmr: float | None
    people_pairs: int


@dataclass(frozen=True, slots=True)
class MeasuredCurve:
    """A false-match curve, and what it rests on.

    Attributes:
        points: by falling rate.
        people: people compared, strangers included.
        pairs, mated_pairs: non-mated and mated comparisons.
        effective: how many non-mated comparisons of equal weight these are worth (`WeighedPairs.effective`).
        non_mated_histogram, mated_histogram: (DISTRIBUTION_BINS,) their cosines in equal bins over -1..1, weighed as in
            the points: numbers of comparisons as they would be if there were as many of each pair of people (each
            person) as of every other; their sums are `pairs` and `mated_pairs`.
    """

    points: list[CalibrationPoint]
    people: int
    pairs: int
    effective: int
    mated_pairs: int
    non_mated_histogram: tuple[int, ...]
    mated_histogram: tuple[int, ...]


def measure_curve(pairs: WeighedPairs, replicates: int, design: Design) -> MeasuredCurve:
    """The curve of what was compared; arguments as for `calibration_points`."""
    mated, _ = np.histogram(
        np.clip(pairs.mated.scores, -1, 1), DISTRIBUTION_BINS, (-1, 1), weights=_mated_weights(pairs)
    )
    return MeasuredCurve(
        points=calibration_points(pairs, design, replicates=replicates),
        people=len(np.unique(pairs.people)),
        pairs=pairs.non_mated,
        effective=max(1, round(pairs.effective)),
        mated_pairs=len(pairs.mated.scores),
        non_mated_histogram=_as_counts(pairs.shares.reshape(DISTRIBUTION_BINS, -1).sum(axis=1), pairs.non_mated),
        mated_histogram=_as_counts(mated, len(pairs.mated.scores)),
    )


def calibration_points(
    pairs: WeighedPairs,
    design: Design,
    rates: Sequence[float] = CALIBRATION_RATES,
    replicates: int = 1000,
    seed: int = 0,
) -> list[CalibrationPoint]:
    """The points of the curve that the comparisons can show, by falling rate.

    Args:
        pairs, design: from `compare_sets`, with `max_far` at least the highest of `rates`.
        rates: wanted false-match rates, falling.
        replicates: draws of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: fewer than two points can be shown.
    """
    first, second = pairs.people[pairs.impostors.first], pairs.people[pairs.impostors.second]
    order = np.argsort(-pairs.impostors.scores, kind="stable")
    scores, weights = pairs.impostors.scores[order], 1 / design.comparisons(first, second)[order]
    total, kept = design.weight(np.ones(len(design.probes))), float(weights.sum())
    # A rate that the kept comparisons do not reach is left out: its threshold lies somewhere below them all.
    shown = [rate for rate in rates if rate * pairs.effective >= LEAST_FALSE_MATCHES and rate * total + 1e-9 < kept]
    points = [(rate, weighted_threshold(scores, weights, rate, total)) for rate in shown]
    # Of equal thresholds (many equal scores) only the first says something.
    rising = [point for k, point in enumerate(points) if k == 0 or point[1] > points[k - 1][1]]
    if len(rising) < 2:
        raise DataError(
            f"{pairs.non_mated} non-mated comparisons show fewer than two false-match rates; "
            "calibrate with more photographs of more people"
        )
    rng, thresholds = np.random.default_rng(seed), [threshold for _, threshold in rising]
    intervals = bootstrap_rates(pairs, design, thresholds, rng, replicates)
    couples = np.minimum(first, second) * len(design.probes) + np.maximum(first, second)
    mated_weights = _mated_weights(pairs)
    return [
        CalibrationPoint(
            fmr=rate,
            threshold=min(threshold, 1.0),
            fmr_lower=min(interval.low, rate),
            fmr_upper=min(max(interval.high, rate), 1.0),
            fnmr=min(float(mated_weights[pairs.mated.scores < threshold].sum()), 1.0) if len(mated_weights) else None,
            people_pairs=len(np.unique(couples[pairs.impostors.scores >= threshold])),
        )
        for (rate, threshold), interval in zip(rising, intervals, strict=True)
    ]


def _mated_weights(pairs: WeighedPairs) -> NDArray[np.float64]:
    """What each mated comparison counts, so that all people weigh alike; sum 1."""
    owners = pairs.people[pairs.mated.first]
    each = np.bincount(owners)
    return np.asarray(1 / (each[owners] * np.count_nonzero(each)))


def _as_counts(shares: NDArray[np.float64], number: int) -> tuple[int, ...]:
    """Whole numbers in the proportion of the shares: running sums are rounded, so that no tail is lost or gained."""
    ends = np.rint(np.cumsum(shares) / max(shares.sum(), 1e-12) * number).astype(np.int64)
    return tuple(np.diff(ends, prepend=0).tolist())
