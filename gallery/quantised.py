"""Search in large galleries: a short eight-bit code of every template in memory, the best ones compared again in full.

A template is turned to the axes along which the gallery's templates vary most, and the coordinates on the first of
these, which hold nearly all of its length, become one byte each. Every code is looked at, since inverted lists find the
best template too seldom (docs/gallery.md, section Size, has the figures); the best are then fetched from the file and
compared in full, so that every score is exact.

A removed code is overwritten by the last one, so nothing of it stays, and removing takes no longer in a large gallery.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import faiss
import numpy as np
import numpy.typing as npt

from facekd.gallery.index import NO_TEMPLATE, Ids, in_order
from facekd.gallery.records import Templates

SHORTLIST = 64
"""Templates compared in full for each probe, at least; four times as many as are asked for."""

ENERGY = 0.97
"""Share of the templates' squared length that the coded axes hold."""

FEWEST_AXES = 64
"""Axes that are coded at least: a sample of a few people alike must not decide that the rest is not needed."""

Codes = npt.NDArray[np.uint8]
Fetch = Callable[[Sequence[int]], dict[int, Templates]]


@dataclass(frozen=True, slots=True)
class Coding:
    """How templates become codes.

    Attributes:
        axes: (K, D) float32, orthonormal rows times what brings coordinates to -127 to 127.
    """

    axes: npt.NDArray[np.float32]

    @classmethod
    def of(cls, sample: Templates) -> Self:
        """The coding that suits templates such as these (N, D): the principal axes of their second moments."""
        dimension = sample.shape[1]
        moments, axes = np.linalg.eigh(sample.T @ sample)
        energy = np.cumsum(moments[::-1])
        needed = 1 + int(np.searchsorted(energy, ENERGY * energy[-1]))
        count = min(dimension, 16 * -(-max(needed, FEWEST_AXES) // 16))
        chosen = axes[:, ::-1][:, :count].T
        # One scale for all axes: then cosines are sums of products of whole numbers, which processors are fastest at.
        return cls(np.ascontiguousarray(chosen * (127 / np.abs(sample @ chosen.T).max()), np.float32))

    def coordinates(self, templates: Templates) -> Templates:
        """Whole numbers from -127 to 127 as float32, (N, K); what lies beyond is clipped."""
        return np.clip(np.rint(templates @ self.axes.T), -127, 127)


class QuantisedIndex:
    """Nearest templates by eight-bit codes, with exact scores (see :class:`facekd.gallery.index.Index`).

    Args:
        coding: how templates become codes.
        fetch: gives full templates by id.

    Attributes:
        coding: as given.
    """

    def __init__(self, coding: Coding, fetch: Fetch) -> None:
        self.coding = coding
        self._width = len(coding.axes)
        # FAISS takes the probes of this one as whole numbers too.
        self._scan: Any = faiss.IndexScalarQuantizer(
            self._width, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        self._ids = np.empty(0, np.int64)  # of each row of codes; longer than there are rows
        self._fetch = fetch

    @classmethod
    def from_codes(cls, coding: Coding, ids: Ids, codes: Codes, fetch: Fetch) -> Self:
        """An index with these rows of :attr:`codes`, (N, K)."""
        made = cls(coding, fetch)
        made._resize(len(ids))
        made.codes[:] = codes
        made._ids = ids
        return made

    def __len__(self) -> int:
        return int(self._scan.ntotal)

    @property
    def dimension(self) -> int:
        """Length of a template."""
        return int(self.coding.axes.shape[1])

    @property
    def ids(self) -> Ids:
        """The id of each row, (N,), in no order."""
        return self._ids[: len(self)]

    @property
    def codes(self) -> Codes:
        """The codes, (N, K): coordinates plus 128. FAISS's own memory, gone with the next addition or removal."""
        size = len(self) * self._width
        flat = faiss.rev_swig_ptr(self._scan.codes.data(), size) if size else np.empty(0, np.uint8)
        return flat.reshape(-1, self._width)

    def add(self, ids: Ids, templates: Templates) -> None:
        """See :class:`facekd.gallery.index.Index`."""
        first, total = len(self), len(self) + len(ids)
        if not len(ids):
            return
        if total > len(self._ids):  # by a quarter, so that one enrolment in a million does not copy all of them
            self._ids = np.concatenate([self.ids, np.empty(len(ids) + total // 4, np.int64)])
        self._ids[first:total] = ids
        self._scan.add(self.coding.coordinates(templates))

    def remove(self, ids: Ids) -> None:
        """See :class:`facekd.gallery.index.Index`; the last rows move into the places that become free."""
        gone = np.flatnonzero(np.isin(self.ids, ids))
        if not len(gone):
            return
        left = len(self) - len(gone)
        movers = np.setdiff1d(np.arange(left, len(self)), gone)
        holes = gone[gone < left]
        codes = self.codes
        codes[holes] = codes[movers]
        self._ids[holes] = self._ids[movers]
        codes[left:] = 0
        self._resize(left)

    def search(self, probes: Templates, count: int) -> tuple[npt.NDArray[np.float32], Ids]:
        """See :class:`facekd.gallery.index.Index`; scores are those of the full templates."""
        shortlist = min(len(self), max(SHORTLIST, 4 * count))
        _, rows = self._scan.search(self.coding.coordinates(probes), shortlist)
        ids = np.where(rows < 0, NO_TEMPLATE, self._ids[rows])
        full = self._fetch(np.unique(ids[ids != NO_TEMPLATE]).tolist())
        scores = np.full(ids.shape, -np.inf, np.float32)
        for row, (probe, found) in enumerate(zip(probes, ids.tolist(), strict=True)):
            known = [place for place, identifier in enumerate(found) if identifier in full]
            if known:
                scores[row, known] = np.stack([full[found[place]] for place in known]) @ probe
        scores, ids = in_order(scores, np.where(np.isfinite(scores), ids, NO_TEMPLATE))
        return scores[:, :count], ids[:, :count]

    def _resize(self, rows: int) -> None:
        self._scan.codes.resize(rows * self._width)
        self._scan.ntotal = rows
