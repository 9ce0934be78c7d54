"""What came of a pair protocol, and its figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.evaluation.bootstrap import bootstrap_pair_protocol
from facekd.evaluation.groups import GroupTable, photograph_rates_by_group
from facekd.evaluation.pairs import PairList
from facekd.evaluation.verification import DetCurve, det_curve, verification_figures

Embeddings = dict[str, NDArray[np.float32] | None]

RATES = (1e-2, 1e-3)


@dataclass(frozen=True, slots=True, eq=False)
class PairOutcome:
    """What came of a protocol: enough for figures, error sheets and open-set experiments.

    Attributes:
        pairs: the protocol.
        scores: (N,) cosines; 0 where a face was not found.
        undetected: photographs in which no face was found.
        embeddings: of every photograph that stands first in a pair (of all, unless second ones are changed).
    """

    pairs: PairList
    scores: NDArray[np.float64]
    undetected: tuple[str, ...]
    embeddings: Embeddings = field(default_factory=dict)

    def figures(
        self,
        person_of: Callable[[str], str] | None = None,
        replicates: int = 200,
        groups: GroupTable | None = None,
    ) -> dict[str, Any]:
        """The keys of `verification_figures`, and ``undetected``: how many photographs.

        Args:
            person_of: gives the person of a photograph; adds ``interval``, the 95 % intervals of the accuracy and of
                each true-accept rate by a bootstrap over people.
            replicates: its draws.
            groups: of people or photographs, with `person_of`; adds ``groups``, the false-match rates within each at
                the thresholds of the true-accept rates, over all pairs of the protocol's photographs, and
                ``everybody``, the same over all of them.
        """
        pairs = self.pairs
        found = verification_figures(self.scores, pairs.same, pairs.folds)
        found["undetected"] = len(self.undetected)
        if person_of is not None:
            people = [person_of(name) for name in pairs.first], [person_of(name) for name in pairs.second]
            intervals = bootstrap_pair_protocol(
                self.scores, pairs.same, pairs.folds, people, RATES, np.random.default_rng(0), replicates
            )
            found["interval"] = {name: [interval.low, interval.high] for name, interval in intervals.items()}
            if groups is not None:
                found["groups"], found["everybody"] = photograph_rates_by_group(
                    self.embeddings, groups, person_of, found["thresholds"]
                )
        return found

    def det_curve(self) -> DetCurve:
        """Both error rates at every score."""
        return det_curve(self.scores[self.pairs.same], self.scores[~self.pairs.same])
