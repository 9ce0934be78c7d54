"""The index in memory, kept in step with the file: other processes' changes are followed, not reloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from facekd.gallery import cache
from facekd.gallery.decision import Candidate
from facekd.gallery.index import NO_TEMPLATE, FlatIndex, Ids, Index
from facekd.gallery.quantised import QuantisedIndex
from facekd.gallery.records import Templates
from facekd.gallery.store import BATCH, Store

FIRST_LOOK = 16
"""Templates looked at first; more where they all belong to one person."""

FLAT_UP_TO = 20_000
"""Templates. Below it exact search takes under 5 ms a probe on one core, no more than reading a shortlist back does."""

SAMPLE_BATCHES = 5
"""Batches of templates from which a large index takes the range of each dimension."""


class LiveIndex:
    """Finds people in the state that the store's current view shows. Call its methods inside a view or a change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index: Index = FlatIndex(store.dimension)
        self._seen = -1
        self._cached = -1

    def __len__(self) -> int:
        return len(self._index)

    def refresh(self) -> None:
        """Bring the index up to date, at the beginning of a view or of a change.

        Never after something was changed inside the same transaction: rolled back, it would stay in the index.
        """
        end = self._store.journal_end()
        if end == self._seen:
            return
        if self._seen < 0:
            self._from_cache()
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

    def save(self) -> None:
        """Write a large index beside the gallery for the next opening, unless it is there already. Inside a change."""
        self.refresh()
        store = self._store
        if not isinstance(self._index, QuantisedIndex) or self._seen == self._cached:
            return
        if cache.save(store.path, store.identity(), self._seen, self._index.to_bytes(), store.sealer):
            self._cached = self._seen

    @property
    def worth_saving(self) -> bool:
        """Whether :meth:`save` would write something."""
        return isinstance(self._index, QuantisedIndex) and self._seen != self._cached

    def _from_cache(self) -> None:
        found = cache.load(self._store.path, self._store.identity(), self._store.sealer)
        if found is None:
            return
        journal, content = found
        try:
            index = QuantisedIndex.from_bytes(content, self._store.embeddings)
        except RuntimeError:  # of another version of FAISS
            return
        if index.dimension == self._store.dimension:
            self._index, self._seen, self._cached = index, journal, journal

    def _load(self) -> None:
        batches = self._store.templates()
        self._index, waiting = self._new_index(batches)
        for ids, templates in chain(waiting, batches):
            self._index.add(ids, templates)

    def _new_index(self, batches: Iterator[tuple[Ids, Templates]]) -> tuple[Index, list[tuple[Ids, Templates]]]:
        """An empty index of the right kind, and what was read to choose it."""
        if self._store.count_templates() <= FLAT_UP_TO:
            return FlatIndex(self._store.dimension), []
        first = [batch for _, batch in zip(range(SAMPLE_BATCHES), batches, strict=False)]
        sample = np.concatenate([templates for _, templates in first])
        return QuantisedIndex(sample, self._store.embeddings), first

    def _follow(self, changes: Sequence[tuple[str, int]]) -> None:
        last = {identifier: change for change, identifier in changes}
        gone = [identifier for identifier, change in last.items() if change == "remove"]
        self._index.remove(np.array(gone, np.int64))
        added = [identifier for identifier, change in last.items() if change == "add"]
        if isinstance(self._index, FlatIndex) and len(self._index) + len(added) > FLAT_UP_TO:
            self._load()
            return
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
