"""Batches in which people, not photographs, are drawn alike: somebody with a thousand crops is one person all the same.

Losses that compare the crops of a batch with one another need several crops of each person in it too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class BalancedSampler:
    """Draws so many crops of each of some people.

    Args:
        labels: (N,) person of each crop; -1 is never drawn.
        crops_per_person: crops of a person in one draw. Who has fewer is drawn with repeats; who has more, without.

    Raises:
        ValueError: nobody is labelled, or ``crops_per_person`` is below 1.
    """

    def __init__(self, labels: NDArray[np.int64], crops_per_person: int) -> None:
        if crops_per_person < 1:
            raise ValueError(f"crops_per_person must be at least 1, got {crops_per_person}")
        order = np.argsort(labels, kind="stable")
        order = order[labels[order] >= 0]
        if not len(order):
            raise ValueError("balanced sampling needs labelled crops, and there is none")
        self._of_person = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
        self._each = crops_per_person

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Indices (count,) of crops: people in random order, each person's crops next to one another.

        Nobody comes twice before everybody has come once. The last person may have fewer crops.
        """
        wanted = -(-count // self._each)
        people: list[int] = []
        total = len(self._of_person)
        while len(people) < wanted:
            people += rng.choice(total, min(wanted - len(people), total), replace=False).tolist()
        chosen = []
        for person in people:
            crops = self._of_person[person]
            chosen.append(rng.choice(crops, self._each, replace=len(crops) < self._each))
        return np.concatenate(chosen)[:count] if chosen else np.zeros(0, np.int64)
