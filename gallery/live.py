"""The index in memory, kept in step with the file: other processes' changes are followed, not reloaded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from facekd.gallery.decision import Candidate
from facekd.gallery.index import NO_TEMPLATE, FlatIndex, Ids, Index
from facekd.gallery.records import Templates
from facekd.gallery.store import BATCH, Store

FIRST_LOOK = 16
"""Templates looked at first; more where they all belong to one person."""


class LiveIndex:
    """Finds people in the state that the store's current view shows. Call its methods inside a view or a change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index: Index = FlatIndex(store.dimension)
        self._seen = -1

    def __len__(self) -> int:
        return len(self._index)

    def refresh(self) -> None:
        """Bring the index up to date, at the beginning of a view or of a change.

        Never after something was changed inside the same transaction: rolled back, it would stay in the index.
        """
        end = self._store.journal_end()
        if end == self._seen:
            return
        changes = self._store.journal_since(self._seen) if self._seen >= 0 else None
        if changes is None:
            self._load()
        else:
            self._follow(changes)
        self._seen = end

    def candidates(self, embeddings: Templates, wanted: int = 2) -> list[list[Candidate]]:
        """People by falling score for each probe: the best two at least, fewer only where there are fewer.

        Args:
            embeddings: (P, D) float32, unit length.
            wanted: how many people at least, instead of two.
        """
        total = len(self._index)
        count = min(FIRST_LOOK, total)
        while True:
            scores, ids = self._index.search(embeddings, count) if count else _nothing(len(embeddings))
            owners = self._store.owners(np.unique(ids).tolist())
            found = [_best_by_person(row, owned, owners) for row, owned in zip(scores, ids, strict=True)]
            if count >= total or all(len(people) >= wanted for people in found):
                break
            count = min(4 * count, total)
        names = self._store.names({number for people in found for number in people})
        return [[Candidate(names[number], score) for number, score in people.items()] for people in found]

    def _load(self) -> None:
        index = FlatIndex(self._store.dimension)
        for ids, templates in self._store.templates():
            index.add(ids, templates)
        self._index = index

    def _follow(self, changes: Sequence[tuple[str, int]]) -> None:
        last = {identifier: change for change, identifier in changes}
        gone = [identifier for identifier, change in last.items() if change == "remove"]
        self._index.remove(np.array(gone, np.int64))
        added = [identifier for identifier, change in last.items() if change == "add"]
        for start in range(0, len(added), BATCH):
            found = self._store.embeddings(added[start : start + BATCH])
            self._index.add(np.array([*found], np.int64), np.array([*found.values()], np.float32))


def _nothing(probes: int) -> tuple[npt.NDArray[np.float32], Ids]:
    return np.empty((probes, 0), np.float32), np.empty((probes, 0), np.int64)


def _best_by_person(scores: npt.NDArray[np.float32], ids: Ids, owners: dict[int, int]) -> dict[int, float]:
    """The first, that is the best, score of each person number; scores fall."""
    best: dict[int, float] = {}
    for score, identifier in zip(scores.tolist(), ids.tolist(), strict=True):
        if identifier != NO_TEMPLATE:
            best.setdefault(owners[identifier], min(1.0, score))  # float32 sums of equal vectors may pass 1
    return best
