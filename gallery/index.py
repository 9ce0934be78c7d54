"""Finding the templates nearest to a probe: exact search with FAISS, and the slow reference that checks it."""

from __future__ import annotations

import os
from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt

from facekd.gallery.records import Templates

Ids = npt.NDArray[np.int64]

NO_TEMPLATE = -1
"""In place of an id where there are fewer templates than were asked for."""

if hasattr(os, "register_at_fork"):
    # GNU OpenMP's threads do not cross a fork, and a search that shares its work with them would wait for ever.
    os.register_at_fork(after_in_child=lambda: faiss.omp_set_num_threads(1))


class Index(Protocol):
    """Templates in memory by id. Templates and probes are (N, D) float32 of unit length; scores are cosines."""

    def __len__(self) -> int:
        """How many templates can be found."""

    def add(self, ids: Ids, templates: Templates) -> None:
        """Add templates; ids are new and positive."""

    def remove(self, ids: Ids) -> None:
        """Remove templates; unknown ids are no error."""

    def search(self, probes: Templates, count: int) -> tuple[npt.NDArray[np.float32], Ids]:
        """Return scores (P, count), falling, and ids (P, count); equal scores by rising id."""


class FlatIndex:
    """Exact search over all templates (FAISS ``IndexFlatIP``): four bytes a dimension, one pass over them a probe."""

    def __init__(self, dimension: int) -> None:
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, ids: Ids, templates: Templates) -> None:
        """See :class:`Index`."""
        if len(ids):
            self._index.add_with_ids(templates, ids)

    def remove(self, ids: Ids) -> None:
        """See :class:`Index`. FAISS moves what lies behind: a few milliseconds in galleries searched so."""
        if len(ids):
            self._index.remove_ids(faiss.IDSelectorBatch(np.ascontiguousarray(ids, np.int64)))

    def search(self, probes: Templates, count: int) -> tuple[npt.NDArray[np.float32], Ids]:
        """See :class:`Index`."""
        scores, ids = self._index.search(probes, count)
        return in_order(scores, ids)


class ReferenceIndex:
    """The same in plain NumPy and a dictionary: slow, plainly right, the judge of every other index in the tests."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._templates: dict[int, Templates] = {}

    def __len__(self) -> int:
        return len(self._templates)

    def add(self, ids: Ids, templates: Templates) -> None:
        """See :class:`Index`."""
        self._templates.update(zip(ids.tolist(), templates, strict=True))

    def remove(self, ids: Ids) -> None:
        """See :class:`Index`."""
        for identifier in ids.tolist():
            self._templates.pop(identifier, None)

    def search(self, probes: Templates, count: int) -> tuple[npt.NDArray[np.float32], Ids]:
        """See :class:`Index`."""
        ids = np.array([*self._templates, *[NO_TEMPLATE] * count], np.int64)
        matrix = np.array([*self._templates.values()], np.float32).reshape(-1, self._dimension)
        scores = np.full((len(probes), len(ids)), -np.inf, np.float32)
        scores[:, : len(matrix)] = probes @ matrix.T
        scores, ids = in_order(scores, np.tile(ids, (len(probes), 1)))
        return scores[:, :count], ids[:, :count]


def use_threads(threads: int) -> None:
    """Processor threads that share the probes of every search from now on; 0 leaves that to FAISS."""
    if threads:
        faiss.omp_set_num_threads(threads)


def in_order(scores: npt.NDArray[np.float32], ids: Ids) -> tuple[npt.NDArray[np.float32], Ids]:
    """Sort each probe's candidates by falling score, equal ones by rising id; absent ones (-1) come last."""
    scores = np.where(ids == NO_TEMPLATE, -np.inf, scores).astype(np.float32)
    order = np.lexsort((ids, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
