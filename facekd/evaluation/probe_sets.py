"""Probes that are other crops than the references, and strangers whose names nobody knows.

`facekd.evaluation.all_pairs` compares labelled crops among themselves. A user's own data has another form: references
of a gallery and probes from a camera, and photographs of people of whom only one thing is known, that they are not
enrolled. Such a stranger is one person in every comparison with references, and is compared with no other stranger,
since two of them may be one person.

A rate "per stranger" is one per person, not per photograph. All pairs, counted plainly, weigh a person by his number of
photographs, and two people by the product, so that a few much-photographed ones decide: of the 40 people of `val`, ten
are among themselves in half of all comparisons. Here every pair of different people who are compared weighs alike: a
non-mated comparison of two people counts 1 / (comparisons of these two).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.evaluation.all_pairs import (
    HISTOGRAM_BINS,
    AllPairs,
    PairScores,
    Tally,
    blocks,
    check_unit_length,
    score_bins,
)
from facekd.evaluation.bootstrap import Interval, draw_weights

Embeddings = NDArray[np.floating[Any]]
Counts = NDArray[np.float64]
Numbers = NDArray[np.int64]
Block = tuple[NDArray[np.float32], NDArray[np.bool_], Numbers, Numbers]
"""Cosines (R, C), which of them count, and the rows of all embeddings that they are of, (R,) and (C,)."""

MOST_KEPT = 4
"""To reach a rate by weight, at most so many times that share of the comparisons is kept: memory stays bounded."""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """Who is compared with whom: crops of each person (P,) by role.

    Attributes:
        within: compared with each other, each pair once.
        references, probes: every probe is compared with every reference of another person.
        named: the first so many people have names, the others are strangers.
    """

    within: Counts
    references: Counts
    probes: Counts
    named: int

    def comparisons(self, first: Numbers, second: Numbers) -> Counts:
        """How many non-mated comparisons there are of a person of `first` with another one of `second`; broadcasts."""
        return np.asarray(
            self.within[first] * self.within[second]
            + self.references[first] * self.probes[second]
            + self.probes[first] * self.references[second]
        )

    def weight(self, weights: Counts) -> float:
        """Weight of the pairs of people compared where a person counts ``weights`` (P,) times; with ones, their number.

        Copies of a person are not compared with each other.
        """
        kinds, compared = self._kinds()
        sums, squares = (np.bincount(kinds, each, len(compared)) for each in (weights, weights**2))
        return float((sums @ compared @ sums - compared.diagonal() @ squares) / 2)

    def without_each(self) -> Counts:
        """Number of pairs of people compared that remain without each person (P,)."""
        kinds, compared = self._kinds()
        partners = compared @ np.bincount(kinds, minlength=len(compared)) - compared.diagonal()
        return np.asarray(self.weight(np.ones(len(kinds))) - partners[kinds])

    def _kinds(self) -> tuple[Numbers, NDArray[np.int64]]:
        """The kind of each person (P,), by the roles that his crops have; and which kinds are compared, (8, 8)."""
        roles = np.stack([self.within, self.references, self.probes], axis=1) > 0
        within, references, probes = np.arange(8) >> np.arange(3)[:, None] & 1
        met = np.outer(within, within) | np.outer(references, probes) | np.outer(probes, references)
        return roles @ (1 << np.arange(3)), np.asarray(met, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class WeighedPairs(AllPairs):
    """What `compare_sets` found; `non_mated` and `histogram` are plain counts, as everywhere.

    Attributes:
        shares: (HISTOGRAM_BINS,) float64: non-mated cosines over [-1, 1], all pairs of people weighing alike; sum 1.
        effective: so many comparisons of equal weight would show a rate as exactly as all of these do (Kish 1965,
            "Survey Sampling"): (sum of weights)² / sum of squared weights.
    """

    shares: Counts
    effective: float


def compare_sets(
    references: Embeddings,
    reference_people: Sequence[str],
    probes: Embeddings | None = None,
    probe_people: Sequence[str] = (),
    *,
    strangers: Embeddings | None = None,
    max_far: float = 1e-2,
    own_versions: bool = False,
    chunk: int = 1024,
) -> tuple[WeighedPairs, Design]:
    """Compare probes and strangers with references; without probes, the references with each other.

    Args:
        references: (R, D) of unit length.
        reference_people: R names, none empty.
        probes: (P, D) of unit length; None: the references are the probes too.
        probe_people: P names; those who are not among the references are impostors in every comparison.
        strangers: (S, D) of unit length: people who are none of the references' and whose names nobody knows.
        max_far: the highest false-match rate that thresholds will be asked for, all pairs of people weighing alike.
            Impostors are kept as far down as that takes, but of no more than `MOST_KEPT` times this share of the
            comparisons: where much-photographed people are all alike, the rate may not be reached.
        own_versions: the probes are the references in their order, changed (masked, say): none is compared with itself.
        chunk: rows of one matrix product; changes memory, not results.

    Returns:
        The comparisons, whose rows count references, then probes, then strangers; and their design.

    Raises:
        ValueError: embeddings are not of unit length, or numbers of rows differ.
    """
    parts = [references, *(part for part in (probes, strangers) if part is not None)]
    for part in parts:
        check_unit_length(part)
    count = 0 if probes is None else len(probes)
    if len(references) != len(reference_people) or count != len(probe_people):
        raise ValueError(
            f"{len(references)} references and {count} probes but {len(reference_people)} and {len(probe_people)} names"
        )
    numbers = {name: number for number, name in enumerate(sorted({*reference_people, *probe_people}))}
    owners = np.array([numbers[name] for name in reference_people], np.int64)
    others = np.array([numbers[name] for name in probe_people], np.int64)
    unknown = np.arange(0 if strangers is None else len(strangers)) + len(numbers)
    people = np.concatenate([owners, others, unknown])
    total = len(numbers) + len(unknown)
    looked_at = np.concatenate([others, unknown])
    probe_counts = np.bincount(looked_at, minlength=total)[:total].astype(np.float64)
    reference_counts = np.bincount(owners, minlength=total).astype(np.float64)
    within = reference_counts if probes is None else np.zeros(total)
    design = Design(within, reference_counts, probe_counts, len(numbers))
    rows = [np.asarray(part, np.float32) for part in parts]

    def compared() -> Iterator[Block]:
        if probes is None:
            yield from _among_themselves(rows[0], chunk)
        if len(looked_at):
            yield from _across(rows[0], np.concatenate(rows[1:]), chunk)

    # Twice, so that memory never holds more than is kept: the first look finds how far down that reaches.
    counts, weights, squares = _distributions(compared(), people, design)
    tally = Tally(int(MOST_KEPT * max_far * counts.sum()) + 1, _floor(counts, weights, max_far))
    for scores, counted, first, second in compared():
        tally.add(scores, counted, people[first, None] == people[second], first, second)
    found = tally.result(people)
    mated = found.mated
    if own_versions:
        mated = _chosen(mated, mated.second - mated.first != len(references))
    return WeighedPairs(
        mated=mated,
        impostors=found.impostors,
        non_mated=found.non_mated,
        histogram=found.histogram,
        people=people,
        shares=weights / max(weights.sum(), 1e-12),
        effective=float(weights.sum() ** 2 / max(squares, 1e-12)),
    ), design


def bootstrap_rates(
    pairs: WeighedPairs,
    design: Design,
    thresholds: Sequence[float],
    rng: np.random.Generator,
    replicates: int = 1000,
    confidence: float = 0.95,
) -> list[Interval]:
    """Intervals of the false-match rate at fixed thresholds, by a bootstrap over people (see `bootstrap`).

    In a replicate a pair of people weighs the product of how often both were drawn, however many comparisons they made.
    Few pairs of people make most false matches, so the rate is skewed, and plain percentiles of the replicates end too
    low: with half of `val` to calibrate on, the other half passed them in 12 % of the draws, where two samples alike
    allow 8 %. The percentiles are therefore corrected for bias and skewness (BCa, Efron 1987, "Better bootstrap
    confidence intervals"; acceleration by a jackknife over people), which came to 7 % (a test repeats it).
    People with a name and strangers are drawn apart, since their numbers were chosen and not found.

    Args:
        pairs, design: from `compare_sets`; thresholds must not lie below the kept impostors.
        thresholds: least accepted cosines.
        rng: where the draws come from.
        replicates: how many draws.
        confidence: share of the distribution inside the interval.

    Raises:
        ValueError: fewer than two people.
    """
    groups = [size for size in (design.named, len(design.probes) - design.named) if size]
    if sum(groups) < 2:
        raise ValueError(f"{sum(groups)} people: a bootstrap over people needs at least two")
    first, second = pairs.people[pairs.impostors.first], pairs.people[pairs.impostors.second]
    lower, upper = np.minimum(first, second), np.maximum(first, second)
    couples, of = np.unique(lower * len(design.probes) + upper, return_inverse=True)
    one, other = couples // len(design.probes), couples % len(design.probes)
    matches = np.stack(
        [np.bincount(of[pairs.impostors.scores >= threshold], minlength=len(couples)) for threshold in thresholds], 1
    ) / design.comparisons(one, other).reshape(-1, 1)
    replicated = np.empty((replicates, len(thresholds)))
    for replicate in range(replicates):
        weights = np.concatenate([draw_weights(size, rng) for size in groups])
        replicated[replicate] = (weights[one] * weights[other]) @ matches / max(design.weight(weights), 1e-12)
    rates = matches.sum(axis=0) / max(design.weight(np.ones(len(design.probes))), 1e-12)
    own = np.stack(
        [np.bincount(one, row, len(design.probes)) + np.bincount(other, row, len(design.probes)) for row in matches.T],
        1,
    )
    without = (matches.sum(axis=0) - own) / np.maximum(design.without_each(), 1e-12)[:, None]
    accelerations = _accelerations(without, groups)
    tail = (1 - confidence) / 2
    return [
        Interval(*_corrected(replicated[:, k], rates[k], accelerations[k], tail), confidence)
        for k in range(len(thresholds))
    ]


def _accelerations(without: Counts, groups: Sequence[int]) -> Counts:
    """Skewness of the influence of single people (P, T) on each rate; several samples as in Efron and Tibshirani 1993,
    chapter 14."""
    cubes, squares = np.zeros(without.shape[1]), np.zeros(without.shape[1])
    for members in np.split(without, np.cumsum(groups)[:-1]):
        influence = (len(members) - 1) / len(members) * (members.mean(axis=0) - members)
        cubes += (influence**3).sum(axis=0)
        squares += (influence**2).sum(axis=0)
    return np.asarray(cubes / (6 * np.maximum(squares, 1e-300) ** 1.5))


def _corrected(replicated: Counts, rate: float, acceleration: float, tail: float) -> tuple[float, float]:
    normal = NormalDist()
    edge = 0.5 / len(replicated)
    below = float(np.mean(replicated < rate) + 0.5 * np.mean(replicated == rate))
    bias = normal.inv_cdf(min(max(below, edge), 1 - edge))
    ends = []
    for share in (tail, 1 - tail):
        z = bias + normal.inv_cdf(share)
        room = 1 - acceleration * z
        level = normal.cdf(bias + z / room) if room > 0 else float(share > 0.5)
        ends.append(float(np.quantile(replicated, level)))
    return ends[0], ends[1]


def _among_themselves(references: NDArray[np.float32], chunk: int) -> Iterator[Block]:
    rows = np.arange(len(references))
    for start, scores in blocks(references, chunk):
        # The block holds rows start… against columns start…: strictly above the diagonal each pair stands once.
        above = np.arange(scores.shape[1])[None, :] > np.arange(scores.shape[0])[:, None]
        yield scores, above, rows[start : start + len(scores)], rows[start:]


def _across(references: NDArray[np.float32], probes: NDArray[np.float32], chunk: int) -> Iterator[Block]:
    rows = np.arange(len(references) + len(probes))
    for start in range(0, len(references), chunk):
        scores = references[start : start + chunk] @ probes.T
        yield scores, np.ones(scores.shape, np.bool_), rows[start : start + len(scores)], rows[len(references) :]


def _distributions(
    compared: Iterable[Block], people: Numbers, design: Design
) -> tuple[NDArray[np.int64], Counts, float]:
    """Non-mated cosines in fine bins, counted and weighed; and the sum of the squared weights."""
    counts, weighed, squares = np.zeros(HISTOGRAM_BINS, np.int64), np.zeros(HISTOGRAM_BINS), 0.0
    for scores, counted, first, second in compared:
        one, other = people[first, None], people[second]
        others = counted & (one != other)
        bins, weights = score_bins(scores[others]), 1 / design.comparisons(one, other)[others]
        counts += np.bincount(bins, minlength=HISTOGRAM_BINS)
        weighed += np.bincount(bins, weights, HISTOGRAM_BINS)
        squares += float((weights**2).sum())
    return counts, weighed, squares


def _floor(counts: NDArray[np.int64], weighed: Counts, rate: float) -> float:
    """A cosine below which lies nothing that a false-match rate by weight needs, or that is too much to be kept."""
    # The highest that must be refused has to be among the kept; sums that are equal but for rounding do not hold it.
    needed = np.flatnonzero(np.cumsum(weighed[::-1]) > rate * weighed.sum() * (1 + 1e-9) + 1e-8)
    too_many = np.flatnonzero(np.cumsum(counts[::-1]) > MOST_KEPT * rate * counts.sum())
    lowest = [len(counts) - 2 - needed[0]] if len(needed) else []  # a bin more, for what rounding does at its edge
    lowest += [len(counts) - 1 - too_many[0]] if len(too_many) else []
    return max(lowest) / (len(counts) / 2) - 1 if lowest else -np.inf


def _chosen(pairs: PairScores, which: NDArray[Any]) -> PairScores:
    return PairScores(pairs.scores[which], pairs.first[which], pairs.second[which])
