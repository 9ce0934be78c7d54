"""Calibration points: what the data shows, and nothing beyond."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.evaluation.all_pairs import compare_all
from facekd.evaluation.calibrate import calibration_points


def example(people: int, each: int) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(people, 8)), each, axis=0) + 0.5 * rng.normal(size=(people * each, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), [f"p{k // each}" for k in range(people * each)]


def test_points_hold_what_they_say() -> None:
    embeddings, names = example(30, 6)
    pairs = compare_all(embeddings, names, max_far=0.1)
    points = calibration_points(pairs)
    assert [point.fmr for point in points] == [1e-1, 3e-2, 1e-2, 3e-3, 1e-3]  # 15,660 pairs: 3e-4 would be four of them
    scores = embeddings @ embeddings.T
    different = np.array(names)[:, None] < np.array(names)[None, :]
    same = (np.array(names)[:, None] == np.array(names)[None, :]) & (np.triu(np.ones_like(scores), 1) > 0)
    for point in points:
        accepted = different & (scores >= point.threshold - 1e-6)
        assert accepted.sum() / different.sum() == pytest.approx(point.fmr, rel=0.1)
        assert point.fnmr == pytest.approx((scores[same] < point.threshold).mean(), abs=1e-3)
        couples = {(names[i], names[j]) for i, j in zip(*np.nonzero(accepted), strict=True)}
        assert point.people_pairs == pytest.approx(len(couples), abs=1)
        assert point.fmr_lower <= point.fmr <= point.fmr_upper
    assert all(a.threshold < b.threshold for a, b in pairwise(points))
    assert points == calibration_points(pairs)  # the same seed


def test_too_little_data() -> None:
    with pytest.raises(DataError, match="more people"):
        calibration_points(compare_all(*example(3, 2), max_far=0.1))
