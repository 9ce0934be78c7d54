"""What is wrong with a set of crops, judged by a teacher's embeddings: wrong people, the same photograph twice, and
people whom nobody has named yet.

All functions take unit-length float embeddings (N, D) and work block by block, so that a hundred thousand crops need
no table of all pairs. Nothing is thrown away here: they say what they found, and the caller decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Embeddings = NDArray[np.float32]
BLOCK = 2048


@dataclass(frozen=True, slots=True)
class LabelScreening:
    """How well each crop fits the person that it is filed under.

    Attributes:
        similarity: (N,) cosine to the person's median, -1..1; NaN for crops of nobody.
        nearest: (N,) the person whose median is most alike; -1 when no person has one.
        suspicious: (N,) less alike than the threshold, or clearly more like somebody else.
    """

    similarity: NDArray[np.float32]
    nearest: NDArray[np.int64]
    suspicious: NDArray[np.bool_]


def person_medians(embeddings: Embeddings, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], Embeddings]:
    """The labels that occur (P,), without -1, and the unit-length median (P, D) of each one's embeddings.

    A median, number by number, stays with the majority where a mean would be drawn away by a few wrong crops.
    """
    _check(embeddings, labels)
    people = np.unique(labels[labels >= 0])
    if not len(people):
        return people, np.zeros((0, embeddings.shape[1]), np.float32)
    medians = np.stack([np.median(embeddings[labels == person], axis=0) for person in people])
    return people, _unit(medians)


def screen_labels(
    embeddings: Embeddings, labels: NDArray[np.int64], *, threshold_cosine: float, margin_cosine: float = 0.1
) -> LabelScreening:
    """Find crops that are filed under the wrong person.

    Args:
        embeddings: (N, D) unit length.
        labels: (N,) person of each crop, -1 where nobody knows.
        threshold_cosine: less alike to one's own median is suspicious. Take the teacher's threshold at a false-match
            rate of about 1e-3, or a little below: hard photographs of the right person are what is worth learning.
        margin_cosine: more alike to somebody else's median by this much is suspicious too.
    """
    people, medians = person_medians(embeddings, labels)
    similarity = np.full(len(labels), np.nan, np.float32)
    nearest = np.full(len(labels), -1, np.int64)
    suspicious = np.zeros(len(labels), np.bool_)
    if len(people):
        for block in _blocks(len(labels)):
            cosines = embeddings[block] @ medians.T
            best = cosines.argmax(1)
            nearest[block] = people[best]
            known = labels[block] >= 0
            own = np.where(known, np.searchsorted(people, labels[block]), 0)
            mine = cosines[np.arange(len(cosines)), own]
            similarity[block] = np.where(known, mine, np.nan)
            other = cosines.max(1) > mine + margin_cosine
            suspicious[block] = known & ((mine < threshold_cosine) | other)
    return LabelScreening(similarity, nearest, suspicious)


def near_duplicates(embeddings: Embeddings, *, threshold_cosine: float = 0.97) -> NDArray[np.int64]:
    """Group crops of one photograph: (N,) index of the first crop of each one's group, its own where it is alone.

    Copies in other sizes and compressions are alike above 0.95 to any good teacher; two photographs of one person
    hardly ever are. ``np.flatnonzero(first == np.arange(len(first)))`` is the set without duplicates.
    """
    _check(embeddings)
    groups = _Groups(len(embeddings))
    for rows, columns in _pairs(embeddings, threshold_cosine):
        groups.join_all(rows, columns)
    return groups.first()


def group_people(
    embeddings: Embeddings,
    *,
    threshold_cosine: float,
    neighbours: int = 10,
    min_crops: int = 4,
    known: Embeddings | None = None,
) -> NDArray[np.int64]:
    """Group unlabelled crops into further people: (N,) number of the group, -1 for crops of none.

    Two crops are linked when each is among the other's nearest and they are more alike than the threshold. The
    connected parts are then held to their own centres: crops less alike to it than the threshold leave, so that a
    chain of look-alikes does not become one person.

    Args:
        embeddings: (N, D) unit length, duplicates removed (copies would pass for evidence of a person).
        threshold_cosine: take a strict one, such as the teacher's at a false-match rate of 1e-5: one person split
            into two classes, or two joined into one, teaches the wrong thing.
        neighbours: how many nearest crops are looked at for each.
        min_crops: smaller groups are dissolved: a class of two photographs teaches little.
        known: (P, D) medians of the labelled people; groups whose centre is as alike as the threshold to one of them
            are dissolved, because a person must not be two classes.
    """
    _check(embeddings)
    count = len(embeddings)
    groups = _Groups(count)
    nearest = _nearest(embeddings, neighbours, threshold_cosine)
    links = {(a, b) for a, row in enumerate(nearest) for b in row.tolist()}
    mutual = [(a, b) for a, b in links if a < b and (b, a) in links]
    if mutual:
        table = np.array(sorted(mutual), np.int64)
        groups.join_all(table[:, 0], table[:, 1])
    people = np.full(count, -1, np.int64)
    number = 0
    first = groups.first()
    order = np.argsort(first, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(first[order])) + 1):
        kept = _held_by_centre(embeddings, members, threshold_cosine) if len(members) >= min_crops else members[:0]
        if len(kept) < min_crops:
            continue
        centre = _unit(embeddings[kept].mean(0, keepdims=True))[0]
        if known is not None and len(known) and float((known @ centre).max()) >= threshold_cosine:
            continue
        people[kept] = number
        number += 1
    return people


def _held_by_centre(embeddings: Embeddings, members: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """The members that stay with the centre of those that stay, after a few rounds."""
    for _ in range(5):
        centre = _unit(np.median(embeddings[members], axis=0, keepdims=True))[0]
        kept = members[embeddings[members] @ centre >= threshold]
        if len(kept) == len(members) or not len(kept):
            return kept
        members = kept
    return members


def _nearest(embeddings: Embeddings, neighbours: int, threshold: float) -> list[NDArray[np.int64]]:
    """For each row, up to so many other rows that are most alike, all above the threshold."""
    found: list[NDArray[np.int64]] = []
    count = min(neighbours, len(embeddings) - 1)
    for block in _blocks(len(embeddings)):
        cosines = embeddings[block] @ embeddings.T
        cosines[np.arange(len(cosines)), np.arange(block.start, block.stop)] = -2.0  # not oneself
        if count <= 0:
            found += [np.zeros(0, np.int64)] * len(cosines)
            continue
        top = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        found += [row[cosines[i, row] >= threshold] for i, row in enumerate(top)]
    return found


def _pairs(embeddings: Embeddings, threshold: float) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs ``a < b`` at least as alike as the threshold, block by block."""
    for block in _blocks(len(embeddings)):
        cosines = embeddings[block] @ embeddings[block.start :].T
        rows, columns = np.nonzero(np.triu(cosines >= threshold, 1))
        yield rows + block.start, columns + block.start


class _Groups:
    """Union-find over ``0 … count - 1``; the first of a group is its smallest member."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def join_all(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        for a, b in zip(rows.tolist(), columns.tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self._parent[high] = low

    def first(self) -> NDArray[np.int64]:
        return np.array([self._root(i) for i in range(len(self._parent))], np.int64)

    def _root(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def _unit(rows: NDArray[np.floating]) -> Embeddings:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _check(embeddings: Embeddings, labels: NDArray[np.int64] | None = None) -> None:
    if embeddings.ndim != 2 or (labels is not None and labels.shape != (len(embeddings),)):
        given = "" if labels is None else f" and labels {labels.shape}"
        raise ValueError(f"wanted embeddings (N, D) and labels (N,), got {embeddings.shape}{given}")
    lengths = np.linalg.norm(embeddings, axis=1)
    if len(lengths) and not np.allclose(lengths, 1.0, atol=1e-2):
        worst = float(lengths[np.abs(lengths - 1.0).argmax()])
        raise ValueError(f"embeddings must be of unit length, got one of {worst:.3f}: normalise them first")
