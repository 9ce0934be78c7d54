"""Intervals by a bootstrap over people.

Comparisons of one person are not independent: one bad photograph spoils many of them. So people are drawn, not
comparisons (Bolle, Ratha and Pankanti 2004, "Error analysis of pattern recognition systems: the subsets bootstrap"): in
each replicate every person gets a weight, how often he was drawn; a mated comparison counts with the weight of its
person, a non-mated one with the product of both weights. Copies of a person are not compared with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.evaluation.all_pairs import AllPairs
from facekd.evaluation.verification import folded_accuracy, rate_label

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided interval: between `low` and `high` lie the middle `confidence` of the replicates."""

    low: float
    high: float
    confidence: float = 0.95


def draw_weights(people: int, rng: np.random.Generator) -> Weights:
    """How often each of `people` is drawn in one replicate: (people,) of sum `people`."""
    return rng.multinomial(people, np.full(people, 1 / people)).astype(np.float64)


def weighted_threshold(scores: NDArray[np.floating[Any]], weights: Weights, far: float, total: float) -> float:
    """The lowest threshold that accepts at most the share `far` of the weight; `threshold_at_far` with weights.

    Args:
        scores: (N,) falling: all non-mated comparisons, or the highest of them.
        weights: (N,) at least 0.
        far: share in (0, 1].
        total: weight of all non-mated comparisons, also of those not handed in.

    Returns:
        The next number above the highest score that must be refused; the lowest score handed in if none must be.
    """
    # Equal scores are accepted together or not at all: judge each by the weight up to the last of its ties.
    cumulative = np.cumsum(weights)
    last_of_ties = len(scores) - np.searchsorted(scores[::-1], scores, side="left") - 1
    refused = np.flatnonzero(cumulative[last_of_ties] > far * total + 1e-9)
    if len(refused):
        return float(np.nextafter(scores[refused[0]], scores.dtype.type(np.inf)))
    return float(scores[-1]) if len(scores) else float("-inf")


def bootstrap_tar(
    pairs: AllPairs,
    rates: Sequence[float],
    rng: np.random.Generator,
    replicates: int = 200,
    confidence: float = 0.95,
) -> list[Interval]:
    """Intervals of the true-accept rate of all pairs at each false-accept rate; the threshold is found anew each time.

    Args:
        pairs: what `compare_all` returned, with a `max_far` of at least three times the highest of `rates`, so that a
            replicate in which impostors weigh little still finds its threshold among the kept scores.
        rates: shares of non-mated comparisons.
        rng: where the draws come from.
        replicates: how many draws.
        confidence: share of the replicates inside the interval.

    Raises:
        ValueError: fewer than two people.
    """
    crops = _crops_of_people(pairs)
    order = np.argsort(-pairs.impostors.scores, kind="stable")
    scores = pairs.impostors.scores[order]
    first, second = pairs.people[pairs.impostors.first[order]], pairs.people[pairs.impostors.second[order]]
    owner = pairs.people[pairs.mated.first]
    outcome = np.empty((replicates, len(rates)))
    for replicate in range(replicates):
        weights = draw_weights(len(crops), rng)
        total = _impostor_weight(weights, crops)
        mated_weights = weights[owner]
        for column, rate in enumerate(rates):
            threshold = weighted_threshold(scores, weights[first] * weights[second], rate, total)
            accepted = pairs.mated.scores >= threshold
            outcome[replicate, column] = (mated_weights * accepted).sum() / max(mated_weights.sum(), 1e-12)
    tail = (1 - confidence) / 2
    low, high = np.quantile(outcome, [tail, 1 - tail], axis=0)
    return [Interval(float(a), float(b), confidence) for a, b in zip(low, high, strict=True)]


def bootstrap_pair_protocol(
    scores: NDArray[np.floating[Any]],
    same: NDArray[np.bool_],
    folds: NDArray[np.integer[Any]],
    people: tuple[Sequence[str], Sequence[str]],
    rates: Sequence[float],
    rng: np.random.Generator,
    replicates: int = 200,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of a pair protocol's accuracy and true-accept rates.

    Args:
        scores, same, folds: (N,) as for `facekd.evaluation.verification.folded_accuracy`.
        people: who is in the first and in the second photograph of each pair, N names each.
        rates: false-accept rates.
        rng, replicates, confidence: as for `bootstrap_tar`.

    Returns:
        ``{"accuracy": …, "1e-2": …, …}``. The folds' thresholds of the accuracy stay as they are, those of the rates
        are found anew in each replicate. Mated and non-mated pairs weigh equally in the accuracy, as in the protocols.

    Raises:
        ValueError: there are no mated or no non-mated pairs.
    """
    if same.all() or not same.any():
        raise ValueError(f"{int(same.sum())} of {len(same)} pairs are mated: intervals need both kinds")
    numbers = {name: number for number, name in enumerate(sorted({*people[0], *people[1]}))}
    first, second = (np.array([numbers[name] for name in side]) for side in people)
    found = folded_accuracy(scores, same, folds)
    threshold_of = dict(zip(np.unique(folds).tolist(), found.thresholds, strict=True))
    right = (scores >= np.array([threshold_of[fold] for fold in folds.tolist()])) == same
    order = np.flatnonzero(~same)[np.argsort(-scores[~same], kind="stable")]
    outcome = np.empty((replicates, 1 + len(rates)))
    for replicate in range(replicates):
        drawn = draw_weights(len(numbers), rng)
        weights = np.where(same, drawn[first], drawn[first] * drawn[second])
        totals = [max(weights[kind].sum(), 1e-12) for kind in (same, ~same)]
        shares = [(weights * right)[kind].sum() / total for kind, total in zip((same, ~same), totals, strict=True)]
        outcome[replicate, 0] = np.mean(shares)
        for column, rate in enumerate(rates, start=1):
            threshold = weighted_threshold(scores[order], weights[order], rate, totals[1])
            outcome[replicate, column] = (weights * (scores >= threshold))[same].sum() / totals[0]
    tail = (1 - confidence) / 2
    low, high = np.quantile(outcome, [tail, 1 - tail], axis=0)
    names = ["accuracy", *(rate_label(rate) for rate in rates)]
    return {name: Interval(float(a), float(b), confidence) for name, a, b in zip(names, low, high, strict=True)}


def _crops_of_people(pairs: AllPairs) -> Weights:
    """Crops of each person."""
    labelled = pairs.people[pairs.people >= 0]
    crops = np.bincount(labelled).astype(np.float64) if len(labelled) else np.zeros(0)
    if len(crops) < 2:
        raise ValueError(f"{len(crops)} people: a bootstrap over people needs at least two")
    return crops


def _impostor_weight(weights: Weights, crops: Weights) -> float:
    drawn = weights * crops
    return float((drawn.sum() ** 2 - (drawn**2).sum()) / 2)
