"""Median times that can be compared: everything in one run, in turns, so that a busy moment hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from facekd.evaluation.progress import Progress, silently


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one thing took.

    Attributes:
        median_ms: median of the rounds, in milliseconds.
        low_ms, high_ms: first and ninth decile.
        rounds: how many.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    rounds: int


def measure(
    stages: Mapping[str, Callable[[], object]],
    rounds: int = 50,
    warm_up: int = 3,
    progress: Progress = silently,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time several things in turns.

    Args:
        stages: what to time, by name.
        rounds: in each, every stage runs once.
        warm_up: rounds before, that do not count (memory, caches, lazy loading).
        progress: shows how far it is.
        clock: seconds; rising.

    Raises:
        ValueError: rounds is not positive.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; a median needs at least one")
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    everything: Iterable[int] = range(-warm_up, rounds)
    for number in progress(everything, "timing"):
        for name, stage in stages.items():
            start = clock()
            stage()
            elapsed = clock() - start
            if number >= 0:
                seconds[name].append(elapsed)
    return {name: _timing(np.array(values) * 1000) for name, values in seconds.items()}


def _timing(milliseconds: np.ndarray) -> Timing:
    low, median, high = np.quantile(milliseconds, [0.1, 0.5, 0.9])
    return Timing(float(median), float(low), float(high), len(milliseconds))
