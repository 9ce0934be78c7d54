"""All pairs of labelled crops: mated and non-mated comparisons by chunked matrix products.

n crops make n (n - 1) / 2 comparisons; nearly all are non-mated, and of those only the highest matter for a low
false-accept rate. So every mated score is kept, and of the others the highest share: thresholds stay exact, memory
stays bounded. A fine histogram of all non-mated scores serves the equal error rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.evaluation.verification import RATES, DetCurve, OperatingPoint, crossing, rate_label, tar_at_far

HISTOGRAM_BINS = 200_000  # of cosine -1 to 1: 1e-5 wide, far below what tells two equal error rates apart


@dataclass(frozen=True, slots=True, eq=False)
class PairScores:
    """Scores with the pairs that they belong to.

    Attributes:
        scores: (N,) float32 cosines.
        first, second: (N,) int64 rows of the embeddings compared.
    """

    scores: NDArray[np.float32]
    first: NDArray[np.int64]
    second: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class AllPairs:
    """Every comparison among labelled crops, as far as figures need it.

    Attributes:
        mated: all comparisons of one person with himself.
        impostors: the highest non-mated comparisons, in no order.
        non_mated: how many non-mated comparisons there are in all.
        histogram: (HISTOGRAM_BINS,) int64: counts of all non-mated cosines over [-1, 1].
        people: (crops,) int64: the person of each row, numbered from 0.
    """

    mated: PairScores
    impostors: PairScores
    non_mated: int
    histogram: NDArray[np.int64]
    people: NDArray[np.int64]


def check_unit_length(embeddings: NDArray[np.floating[Any]]) -> None:
    """Refuse embeddings that are not of unit length: their products would be no cosines.

    Raises:
        ValueError: not a matrix, or a row's length is off by more than 1 % (float16 is fine).
    """
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings have shape {embeddings.shape}; wanted (crops, dimension)")
    lengths = np.linalg.norm(embeddings.astype(np.float32, copy=False), axis=1)
    if len(lengths) and not (np.abs(lengths - 1) < 0.01).all():
        raise ValueError(f"embeddings of length {lengths.min():.3g} to {lengths.max():.3g}; normalise them to 1 first")


def compare_all(
    embeddings: NDArray[np.floating[Any]], identities: Sequence[str], max_far: float = 1e-2, chunk: int = 1024
) -> AllPairs:
    """Compare every labelled crop with every other one.

    Args:
        embeddings: (N, D) of unit length.
        identities: N names; crops with an empty name are left out (their row is person -1).
        max_far: the highest false-accept rate that thresholds will be asked for.
        chunk: rows of one matrix product; changes memory, not results.

    Returns:
        The comparisons; rows of `first` and `second` are rows of `embeddings`.

    Raises:
        ValueError: embeddings are not of unit length, or numbers of rows differ.
    """
    check_unit_length(embeddings)
    if len(embeddings) != len(identities):
        raise ValueError(f"{len(embeddings)} embeddings but {len(identities)} identities: wanted one each")
    names = {name: number for number, name in enumerate(sorted({name for name in identities if name}))}
    people = np.array([names.get(name, -1) for name in identities], np.int64)
    rows = np.flatnonzero(people >= 0)
    matrix = embeddings[rows].astype(np.float32)
    labels = people[rows]
    non_mated = impostor_pairs(labels)
    keep = int(np.floor(max_far * non_mated + 1e-9)) + 1

    tally = Tally(keep)
    for start, scores in blocks(matrix, chunk):
        # The block holds rows start… against columns start…: strictly above the diagonal each pair stands once.
        above = np.arange(scores.shape[1])[None, :] > np.arange(scores.shape[0])[:, None]
        tally.add(
            scores, above, labels[start : start + len(scores), None] == labels[None, start:], rows[start:], rows[start:]
        )
    return tally.result(people)


def impostor_pairs(labels: NDArray[np.int64]) -> int:
    """How many pairs of crops are of different people, for the person (N,) of each crop."""
    sizes = np.bincount(labels) if len(labels) else np.zeros(0, np.int64)
    return (len(labels) ** 2 - int((sizes.astype(np.int64) ** 2).sum())) // 2


def operating_points(pairs: AllPairs, rates: Sequence[float] = RATES) -> list[OperatingPoint]:
    """Threshold and true-accept rate at each false-accept rate; exact, see `threshold_at_far`."""
    return [tar_at_far(pairs.mated.scores, pairs.impostors.scores, rate, pairs.non_mated) for rate in rates]


def all_pairs_det_curve(pairs: AllPairs) -> DetCurve:
    """Both error rates over all comparisons, at the edges of the histogram: exact to 1e-5 of cosine.

    Raises:
        ValueError: one of the two kinds of comparisons is missing.
    """
    mated = len(pairs.mated.scores)
    if not mated or not pairs.non_mated:
        raise ValueError(f"{mated} mated and {pairs.non_mated} non-mated comparisons: a curve needs both")
    edges = np.linspace(-1, 1, HISTOGRAM_BINS + 1)[:-1][::-1]
    refused = np.searchsorted(np.sort(pairs.mated.scores), edges, side="left")
    return DetCurve(
        thresholds=np.concatenate([[np.inf], edges]),
        fmr=np.concatenate([[0.0], np.cumsum(pairs.histogram[::-1]) / pairs.non_mated]),
        fnmr=np.concatenate([[1.0], refused / mated]),
        mated=mated,
        non_mated=pairs.non_mated,
    )


def all_pairs_equal_error_rate(pairs: AllPairs) -> float:
    """Equal error rate with all non-mated comparisons, from `all_pairs_det_curve`."""
    curve = all_pairs_det_curve(pairs)
    return crossing(curve.fmr, curve.fnmr)


def hardest_pairs(pairs: AllPairs, each: int) -> tuple[PairScores, PairScores]:
    """The highest non-mated and the lowest mated comparisons, worst first; two people (or one) occur only once.

    A wrong label or one bad crop spoils dozens of comparisons of the same people: whoever looks at the worst ones wants
    to see as many people as possible.

    Args:
        pairs: what `compare_all` returned.
        each: at most so many of each kind.
    """
    return _hardest(pairs.impostors, pairs.people, each, -1), _hardest(pairs.mated, pairs.people, each, 1)


def _hardest(scores: PairScores, people: NDArray[np.int64], each: int, sign: int) -> PairScores:
    seen: set[tuple[int, int]] = set()
    chosen: list[int] = []
    for k in np.argsort(sign * scores.scores, kind="stable").tolist():
        first, second = sorted((int(people[scores.first[k]]), int(people[scores.second[k]])))
        if (first, second) not in seen:
            seen.add((first, second))
            chosen.append(k)
            if len(chosen) == each:
                break
    return PairScores(scores.scores[chosen], scores.first[chosen], scores.second[chosen])


def crop_figures(pairs: AllPairs, rates: Sequence[float] = RATES) -> dict[str, Any]:
    """The figures of `facekd evaluate crops`, as its JSON has them.

    Returns:
        ``{"tar": {"1e-2", …}, "thresholds": {…}, "eer", "identities", "crops", "pairs": {"mated", "non_mated"}}``
    """
    points = operating_points(pairs, rates)
    labelled = pairs.people[pairs.people >= 0]
    return {
        "tar": {rate_label(point.far): point.tar for point in points},
        "thresholds": {rate_label(point.far): point.threshold for point in points},
        "eer": all_pairs_equal_error_rate(pairs),
        "identities": len(np.unique(labelled)),
        "crops": len(labelled),
        "pairs": {"mated": len(pairs.mated.scores), "non_mated": pairs.non_mated},
    }


def blocks(matrix: NDArray[np.float32], chunk: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (first row, cosines of the rows of this chunk with themselves and all later rows)."""
    for start in range(0, len(matrix), chunk):
        yield start, matrix[start : start + chunk] @ matrix[start:].T


def score_bins(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The bin of the histogram that each cosine belongs to."""
    return np.clip(((scores + 1) * (HISTOGRAM_BINS / 2)).astype(np.int64), 0, HISTOGRAM_BINS - 1)


class Tally:
    """Sorts blocks of scores into mated ones, the highest of the others, and the histogram of the others.

    Args:
        keep: how many of the highest.
        floor: scores below it are not among them.
    """

    def __init__(self, keep: int, floor: float = -np.inf) -> None:
        self._histogram = np.zeros(HISTOGRAM_BINS, np.int64)
        self._mated: list[PairScores] = []
        self._highest = _Highest(keep, floor)

    def add(
        self,
        scores: NDArray[np.float32],
        compared: NDArray[np.bool_],
        same: NDArray[np.bool_],
        first: NDArray[np.int64],
        second: NDArray[np.int64],
    ) -> None:
        """Take a block (R, C) of which only `compared` counts; `first` and `second` name its rows and columns."""
        i, j = np.nonzero(compared & same)
        self._mated.append(PairScores(scores[i, j], first[i], second[j]))
        others = compared & ~same
        self._histogram += np.bincount(score_bins(scores[others]), minlength=HISTOGRAM_BINS)
        i, j = np.nonzero(others & (scores >= self._highest.floor))
        self._highest.add(PairScores(scores[i, j], first[i], second[j]))

    def result(self, people: NDArray[np.int64]) -> AllPairs:
        """Everything that was taken; `people` are those of all rows that were named."""
        non_mated = int(self._histogram.sum())
        return AllPairs(join_pairs(self._mated), self._highest.pairs(), non_mated, self._histogram, people)


class _Highest:
    """Keeps the `count` highest scores of a stream, with their pairs."""

    def __init__(self, count: int, floor: float) -> None:
        self.count = count
        self.floor = floor  # a score below it is certainly not among the highest
        self._kept: list[PairScores] = []
        self._held = 0

    def add(self, pairs: PairScores) -> None:
        self._kept.append(pairs)
        self._held += len(pairs.scores)
        if self._held > 4 * self.count:
            self._cut()

    def pairs(self) -> PairScores:
        self._cut()
        return self._kept[0]

    def _cut(self) -> None:
        held = join_pairs(self._kept)
        if len(held.scores) > self.count:
            top = np.argpartition(held.scores, len(held.scores) - self.count)[-self.count :]
            held = PairScores(held.scores[top], held.first[top], held.second[top])
            self.floor = float(held.scores.min())
        self._kept, self._held = [held], len(held.scores)


def join_pairs(parts: Sequence[PairScores]) -> PairScores:
    """Several parts as one, in their order."""
    empty = PairScores(np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64))
    parts = [empty, *parts]
    return PairScores(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.second for part in parts]),
    )
