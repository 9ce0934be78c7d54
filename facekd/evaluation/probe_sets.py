"""Probes that are other crops than the references, and strangers whose names nobody knows.

`facekd.evaluation.all_pairs` compares labelled crops among themselves. A user's own data has another form: references
of a gallery and probes from a camera, and photographs of people of whom only one thing is known, that they are not
enrolled. Such a stranger is one person in every comparison with references, and is compared with no other stranger,
since two of them may be one person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.evaluation.all_pairs import AllPairs, PairScores, Tally, check_unit_length, compare_all, join_pairs
from facekd.evaluation.bootstrap import Interval, draw_weights

Embeddings = NDArray[np.floating[Any]]
Counts = NDArray[np.float64]


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

    def weight(self, weights: Counts) -> float:
        """Weight of all non-mated comparisons where a person counts ``weights`` (P,) times; with ones, their number.

        Copies of a person are not compared with each other.
        """
        within = weights * self.within
        references, probes = weights * self.references, weights * self.probes
        return float(
            (within.sum() ** 2 - (within**2).sum()) / 2 + references.sum() * probes.sum() - references @ probes
        )

    def without_each(self) -> Counts:
        """Number of non-mated comparisons that remain without each person (P,)."""
        within, references, probes = self.within, self.references, self.probes
        inside = within * (within.sum() - within)
        across = references * (probes.sum() - probes) + probes * (references.sum() - references)
        return np.asarray(self.weight(np.ones(len(within))) - inside - across)


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
) -> tuple[AllPairs, Design]:
    """Compare probes and strangers with references; without probes, the references with each other.

    Args:
        references: (R, D) of unit length.
        reference_people: R names, none empty.
        probes: (P, D) of unit length; None: the references are the probes too.
        probe_people: P names; those who are not among the references are impostors in every comparison.
        strangers: (S, D) of unit length: people who are none of the references' and whose names nobody knows.
        max_far: the highest false-accept rate that thresholds will be asked for.
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
    ones = np.ones(total)
    non_mated = round(design.weight(ones))
    found = []
    if probes is None:
        # Of each part so many scores are kept as the whole might need from it alone.
        alone = Design(within, 0 * within, 0 * within, len(numbers)).weight(ones)
        share = min(1.0, max_far * non_mated / max(alone, 1.0))
        found.append(compare_all(references, reference_people, share, chunk))
    if len(looked_at):
        rows = np.concatenate(parts[1:]).astype(np.float32)
        found.append(_rectangle(references.astype(np.float32), rows, people, int(max_far * non_mated) + 1, chunk))
    whole = _joined(found, people)
    if own_versions:
        others_own = whole.mated.second - whole.mated.first != len(references)
        whole = replace(whole, mated=_chosen(whole.mated, others_own))
    return whole, design


def design_of(pairs: AllPairs) -> Design:
    """The design of `compare_all`."""
    labelled = pairs.people[pairs.people >= 0]
    counts = np.bincount(labelled).astype(np.float64) if len(labelled) else np.zeros(0)
    nobody = np.zeros(len(counts))
    return Design(counts, nobody, nobody, len(counts))


def bootstrap_rates(
    pairs: AllPairs,
    design: Design,
    thresholds: Sequence[float],
    rng: np.random.Generator,
    replicates: int = 1000,
    confidence: float = 0.95,
) -> list[Interval]:
    """Intervals of the false-match rate at fixed thresholds, by a bootstrap over people (see `bootstrap`).

    Few pairs of people make most false matches, so the rate is skewed, and plain percentiles of the replicates end too
    low: with half of `val` to calibrate on, the other half passed them in 18 % of the draws, where two samples alike
    allow 8 %. The percentiles are therefore corrected for bias and skewness (BCa, Efron 1987, "Better bootstrap
    confidence intervals"; acceleration by a jackknife over people), which came to 5 % (a test repeats it).
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
    ).astype(np.float64)
    replicated = np.empty((replicates, len(thresholds)))
    for replicate in range(replicates):
        weights = np.concatenate([draw_weights(size, rng) for size in groups])
        replicated[replicate] = (weights[one] * weights[other]) @ matches / max(design.weight(weights), 1e-12)
    rates = matches.sum(axis=0) / max(pairs.non_mated, 1)
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


def _rectangle(
    references: NDArray[np.float32], probes: NDArray[np.float32], people: NDArray[np.int64], keep: int, chunk: int
) -> AllPairs:
    rows, owners, others = np.arange(len(people)), people[: len(references)], people[len(references) :]
    tally = Tally(keep)
    for start in range(0, len(references), chunk):
        scores = references[start : start + chunk] @ probes.T
        same = owners[start : start + chunk, None] == others[None, :]
        tally.add(scores, np.ones_like(same), same, rows[start:], rows[len(references) :])
    return tally.result(people)


def _joined(parts: Sequence[AllPairs], people: NDArray[np.int64]) -> AllPairs:
    return AllPairs(
        mated=join_pairs([part.mated for part in parts]),
        impostors=join_pairs([part.impostors for part in parts]),
        non_mated=sum(part.non_mated for part in parts),
        histogram=np.sum([part.histogram for part in parts], axis=0),
        people=people,
    )


def _chosen(pairs: PairScores, which: NDArray[Any]) -> PairScores:
    return PairScores(pairs.scores[which], pairs.first[which], pairs.second[which])
