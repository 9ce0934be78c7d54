"""Finding people in a gallery in Milvus: the index of :mod:`facekd.gallery.backend`."""

from __future__ import annotations

import numpy as np

from facekd.gallery.backend import NOBODY, Ranked, people_by_score
from facekd.gallery.decision import Candidate
from facekd.gallery.index import in_order
from facekd.gallery.milvus import LARGEST_ANSWER, MilvusStore
from facekd.gallery.records import Templates


class MilvusIndex:
    """Finds people by asking Milvus (see :class:`facekd.gallery.backend.PeopleIndex`); holds nothing itself.

    Scores are those of the full templates, computed here, whatever Milvus' index computes with.
    """

    def __init__(self, store: MilvusStore) -> None:
        self._store = store
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def refresh(self) -> None:
        """Count the templates, on which thresholds depend."""
        self._count = self._store.count_templates()

    def candidates(self, embeddings: Templates, wanted: int = 2) -> list[list[Candidate]]:
        """See :class:`facekd.gallery.backend.PeopleIndex`."""
        total = min(self._count, LARGEST_ANSWER)
        return people_by_score(self._search, self._store.names, embeddings, total, wanted)

    def close(self) -> None:
        """Nothing to write."""

    def _search(self, embeddings: Templates, count: int) -> Ranked:
        found = self._store.nearest(embeddings, count)
        width = max(map(len, found), default=0)
        scores = np.full((len(found), width), -np.inf, np.float32)
        ids = np.full((len(found), width), NOBODY, np.int64)
        numbers: dict[int, int] = {NOBODY: NOBODY}
        for row, (probe, hits) in enumerate(zip(embeddings, found, strict=True)):
            if hits:
                scores[row, : len(hits)] = np.stack([template for _, _, template in hits]) @ probe
                ids[row, : len(hits)] = [identifier for identifier, _, _ in hits]
                numbers.update((identifier, number) for identifier, number, _ in hits)
        scores, ids = in_order(scores, ids)
        owners = np.array([[numbers[identifier] for identifier in row] for row in ids.tolist()], np.int64)
        return scores[:, :count], owners[:, :count]
