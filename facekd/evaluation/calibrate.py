"""From labelled crops to thresholds: which cosine has which false-match rate, with intervals over people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facekd.errors import DataError
from facekd.evaluation.all_pairs import AllPairs, operating_points
from facekd.evaluation.bootstrap import bootstrap_false_match_rate

CALIBRATION_RATES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
LEAST_FALSE_MATCHES = 10
"""A rate seen in fewer false matches than this is not measured but guessed: the curve ends before it."""


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """One measured point of the false-match curve.

    Attributes:
        fmr: share of non-mated comparisons accepted.
        threshold: least accepted cosine.
        fmr_lower, fmr_upper: 95 % interval of the rate at this threshold, by a bootstrap over people.
        fnmr: share of mated comparisons refused.
        people_pairs: how many different pairs of people the false matches come from.
    """

    fmr: float
    threshold: float
    fmr_lower: float
    fmr_upper: float
    fnmr: float
    people_pairs: int


def calibration_points(
    pairs: AllPairs, rates: Sequence[float] = CALIBRATION_RATES, replicates: int = 200, seed: int = 0
) -> list[CalibrationPoint]:
    """The points of the curve that the comparisons can show, by falling rate.

    Args:
        pairs: what `compare_all` or `compare_probes` returned, with `max_far` at least the highest of `rates`.
        rates: wanted false-match rates, falling.
        replicates: draws of the bootstrap.
        seed: of the bootstrap.

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
    intervals = bootstrap_false_match_rate(
        pairs, [p.threshold for p in rising], np.random.default_rng(seed), replicates
    )
    first, second = pairs.people[pairs.impostors.first], pairs.people[pairs.impostors.second]
    lower, upper = np.minimum(first, second), np.maximum(first, second)
    couples = lower * (int(pairs.people.max()) + 1) + upper
    return [
        CalibrationPoint(
            fmr=point.far,
            threshold=min(point.threshold, 1.0),
            fmr_lower=interval.low,
            fmr_upper=min(max(interval.high, point.far), 1.0),
            fnmr=1.0 - point.tar,
            people_pairs=len(np.unique(couples[pairs.impostors.scores >= point.threshold])),
        )
        for point, interval in zip(rising, intervals, strict=True)
    ]
