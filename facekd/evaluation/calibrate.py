"""From comparisons to thresholds: which cosine has which false-match rate, with intervals over people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.evaluation.all_pairs import AllPairs, operating_points
from facekd.evaluation.probe_sets import Design, bootstrap_rates, design_of

CALIBRATION_RATES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
DISTRIBUTION_BINS = 200
"""Bins of the score distributions that an artefact carries: a hundredth of cosine each."""
LEAST_FALSE_MATCHES = 10
"""A rate seen in fewer false matches than this is not measured but guessed: the curve ends before it."""


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """One measured point of the false-match curve.

    Attributes:
        fmr: share of non-mated comparisons accepted.
        threshold: least accepted cosine.
        fmr_lower, fmr_upper: 95 % interval of the rate at this threshold, by a bootstrap over people (BCa).
        fnmr: share of mated comparisons refused; None where there is none.
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
        non_mated_histogram, mated_histogram: (DISTRIBUTION_BINS,) counts of their cosines in equal bins over -1..1.
    """

    points: list[CalibrationPoint]
    people: int
    pairs: int
    mated_pairs: int
    non_mated_histogram: tuple[int, ...]
    mated_histogram: tuple[int, ...]


def measure_curve(pairs: AllPairs, replicates: int = 1000, design: Design | None = None) -> MeasuredCurve:
    """The curve of what was compared; arguments as for `calibration_points`."""
    non_mated = pairs.histogram.reshape(DISTRIBUTION_BINS, -1).sum(axis=1)
    mated, _ = np.histogram(np.clip(pairs.mated.scores, -1, 1), DISTRIBUTION_BINS, (-1, 1))
    return MeasuredCurve(
        points=calibration_points(pairs, replicates=replicates, design=design),
        people=len(np.unique(pairs.people[pairs.people >= 0])),
        pairs=pairs.non_mated,
        mated_pairs=len(pairs.mated.scores),
        non_mated_histogram=_counts(non_mated),
        mated_histogram=_counts(mated),
    )


def calibration_points(
    pairs: AllPairs,
    rates: Sequence[float] = CALIBRATION_RATES,
    replicates: int = 1000,
    seed: int = 0,
    design: Design | None = None,
) -> list[CalibrationPoint]:
    """The points of the curve that the comparisons can show, by falling rate.

    Args:
        pairs: what `compare_all` or `compare_sets` returned, with `max_far` at least the highest of `rates`.
        rates: wanted false-match rates, falling.
        replicates: draws of the bootstrap.
        seed: of the bootstrap.
        design: what `compare_sets` returned beside the pairs; not needed for the others.

    Raises:
        DataError: fewer than two points can be shown.
    """
    shown = [rate for rate in rates if rate * pairs.non_mated >= LEAST_FALSE_MATCHES]
    points = operating_points(pairs, shown) if shown else []
    # Of equal thresholds (many equal scores) only the first says something.
    rising = [p for k, p in enumerate(points) if k == 0 or p.threshold > points[k - 1].threshold]
    if len(rising) < 2:
        raise DataError(
            f"{pairs.non_mated} non-mated comparisons show fewer than two false-match rates; "
            "calibrate with more photographs of more people"
        )
    rng, thresholds = np.random.default_rng(seed), [p.threshold for p in rising]
    intervals = bootstrap_rates(pairs, design or design_of(pairs), thresholds, rng, replicates)
    first, second = pairs.people[pairs.impostors.first], pairs.people[pairs.impostors.second]
    lower, upper = np.minimum(first, second), np.maximum(first, second)
    couples = lower * (int(pairs.people.max()) + 1) + upper
    return [
        CalibrationPoint(
            fmr=point.far,
            threshold=min(point.threshold, 1.0),
            fmr_lower=min(interval.low, point.far),
            fmr_upper=min(max(interval.high, point.far), 1.0),
            fnmr=None if np.isnan(point.tar) else 1.0 - point.tar,
            people_pairs=len(np.unique(couples[pairs.impostors.scores >= point.threshold])),
        )
        for point, interval in zip(rising, intervals, strict=True)
    ]


def _counts(histogram: NDArray[np.integer[Any]]) -> tuple[int, ...]:
    return tuple(int(count) for count in histogram)
