"""The index in memory, kept in step with the file: other processes' changes are followed, not reloaded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from facekd.gallery import cache
from facekd.gallery.backend import NOBODY, Ranked, people_by_score
from facekd.gallery.decision import Candidate
from facekd.gallery.index import FlatIndex, Ids, Index
from facekd.gallery.quantised import Coding, QuantisedIndex
from facekd.gallery.records import Templates
from facekd.gallery.store import BATCH, Store

FLAT_UP_TO = 20_000
"""Templates. Below it exact search takes under 5 ms a probe on one core, no more than reading a shortlist back does."""

SAMPLE = 16_384
"""Templates from which a large index learns how to code all of them, at most."""

SAVE_AFTER = 5_000
"""Changes since the cache was written, from which on it is written anew: following them takes about 0.2 s, and so does
writing a million codes."""


class LiveIndex:
    """Finds people in the state that the store's current view shows. Call its methods inside a view or a change.

    Args:
        store: the gallery's tables.
        flat_up_to: templates that are searched exactly; :data:`FLAT_UP_TO` unless told.
    """

    def __init__(self, store: Store, *, flat_up_to: int | None = None) -> None:
        self._store = store
        self._flat_up_to = FLAT_UP_TO if flat_up_to is None else flat_up_to
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
            self._from_cache(end)
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
        return people_by_score(self._search, self._store.names, embeddings, len(self._index), wanted)

    def nearest(self, embeddings: Templates, count: int) -> tuple[npt.NDArray[np.float32], Ids]:
        """Templates by falling score for each probe: scores and ids (P, count), see :meth:`Index.search`."""
        return self._index.search(embeddings, count)

    def _search(self, embeddings: Templates, count: int) -> Ranked:
        scores, ids = self.nearest(embeddings, count)
        owners = self._store.owners(np.unique(ids).tolist())
        return scores, np.array([[owners.get(identifier, NOBODY) for identifier in row] for row in ids.tolist()])

    def close(self) -> None:
        """Write a large index beside the gallery for the next opening, where that would save more than it costs."""
        if self._worth_saving:
            with self._store.writing():
                self.save()

    def save(self) -> None:
        """Write a large index beside the gallery for the next opening, unless it is there already. Inside a change."""
        self.refresh()
        store, index = self._store, self._index
        if not isinstance(index, QuantisedIndex) or self._seen == self._cached:
            return
        content = cache.Cached(self._seen, self._seen, index.coding, index.ids, index.codes)
        if cache.save(store.path, store.identity(), content, store.sealer):
            self._cached = self._seen

    @property
    def _worth_saving(self) -> bool:
        if not isinstance(self._index, QuantisedIndex):
            return False
        return self._cached < 0 or self._seen - self._cached > SAVE_AFTER

    def _from_cache(self, end: int) -> None:
        store = self._store
        found = cache.load(store.path, store.identity(), store.sealer)
        # Written or erased from after this view began: not the state that the view shows.
        if found is None or found.erased > end or found.coding.axes.shape[1] != store.dimension:
            return
        self._index = QuantisedIndex.from_codes(found.coding, found.ids, found.codes, store.embeddings)
        self._seen = self._cached = found.journal

    def _load(self) -> None:
        store = self._store
        count = store.count_templates()
        self._cached = -1
        if count <= self._flat_up_to:
            self._index = FlatIndex(store.dimension)
        else:
            self._index = QuantisedIndex(Coding.of(self._sample(count)), store.embeddings)
        for ids, templates in store.templates():
            self._index.add(ids, templates)

    def _sample(self, count: int) -> Templates:
        """Templates from all over the gallery: the first of them may be the owner's family."""
        numbers = [identifier for identifier, _ in self._store.all_owners()]
        chosen = self._store.embeddings(numbers[:: -(-count // SAMPLE)])
        return np.array([*chosen.values()], np.float32)

    def _follow(self, changes: Sequence[tuple[str, int]]) -> None:
        last = {identifier: change for change, identifier in changes}
        gone = [identifier for identifier, change in last.items() if change == "remove"]
        self._index.remove(np.array(gone, np.int64))
        added = [identifier for identifier, change in last.items() if change == "add"]
        if isinstance(self._index, FlatIndex) and len(self._index) + len(added) > self._flat_up_to:
            self._load()
            return
        for start in range(0, len(added), BATCH):
            found = self._store.embeddings(added[start : start + BATCH])
            self._index.add(np.array([*found], np.int64), np.array([*found.values()], np.float32))
