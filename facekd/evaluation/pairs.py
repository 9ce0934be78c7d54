"""Pair protocols: lists of comparisons in folds, whatever data set they come from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class PairList:
    """Comparisons of a protocol.

    Attributes:
        first, second: N names of photographs each; the second one is the probe.
        same: (N,) bool: the pair is mated.
        folds: (N,) int64: the fold of each pair, from 0.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    def photographs(self) -> list[str]:
        """Every photograph that occurs, once, in the order of first occurrence."""
        return list(dict.fromkeys([*self.first, *self.second]))

    def references(self) -> list[str]:
        """Every photograph that stands first in a pair, once."""
        return list(dict.fromkeys(self.first))

    def probes(self) -> list[str]:
        """Every photograph that stands second in a pair, once."""
        return list(dict.fromkeys(self.second))

    def checked(self, source: str | os.PathLike[str]) -> PairList:
        """This list, if figures can come of it; asked before anything is embedded.

        Raises:
            DataError: it lacks mated or non-mated pairs, or has fewer than two folds; `source` stands in the message.
        """
        mated, folds = int(self.same.sum()), len(np.unique(self.folds))
        if not mated or mated == len(self):
            raise DataError(f"{source}: {mated} of {len(self)} pairs are mated; error rates need both kinds")
        if folds < 2:
            raise DataError(f"{source}: the pairs make up one fold; ten-fold accuracy needs two pairs of a kind")
        return self

    def part(self, pairs_of_each_kind: int) -> PairList:
        """Only the first few mated and non-mated pairs of each fold: a quick look, not a figure to publish."""
        keep = np.zeros(len(self), bool)
        for fold in np.unique(self.folds):
            for kind in (True, False):
                keep[np.flatnonzero((self.folds == fold) & (self.same == kind))[:pairs_of_each_kind]] = True
        chosen = np.flatnonzero(keep)
        return PairList(
            tuple(self.first[k] for k in chosen),
            tuple(self.second[k] for k in chosen),
            self.same[keep],
            self.folds[keep],
        )


Embeddings = Mapping[str, NDArray[np.floating[Any]] | None]


def pair_scores(pairs: PairList, references: Embeddings, probes: Embeddings | None = None) -> NDArray[np.float64]:
    """Cosine of each pair; 0 where one of its faces was not found.

    A pair is never left out: a detector that finds only easy faces would otherwise look good.

    Args:
        pairs: the protocol.
        references: embeddings of unit length by photograph; None where no face was found.
        probes: the same for second photographs where they are seen differently (masked); None: `references` serve.

    Returns:
        (N,) cosines.

    Raises:
        KeyError: a photograph was not looked at.
    """
    probes = references if probes is None else probes
    scores = np.zeros(len(pairs))
    for k, (first, second) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        a, b = references[first], probes[second]
        if a is not None and b is not None:
            scores[k] = float(a @ b)
    return scores
