"""Landmark errors by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facekd.evaluation.landmarks import joined_errors, landmark_errors, normalised_mean_error

POINTS = np.array([[10, 10], [30, 10], [20, 20], [12, 30], [28, 30]], np.float32)
BOX = np.array([[5, 5, 35, 35]], np.float32)


def test_by_hand() -> None:
    moved = POINTS.copy()
    moved[2] += (3, 4)  # one point of five, by 5 px; the eyes are 20 px apart
    np.testing.assert_allclose(normalised_mean_error(moved[None], POINTS[None]), [5 / 5 / 20])
    assert normalised_mean_error(POINTS[None], POINTS[None]) == 0


def test_empty() -> None:
    none = np.empty((0, 5, 2))
    assert len(normalised_mean_error(none, none)) == 0
    nothing = landmark_errors(np.empty((0, 4)), none, BOX, POINTS[None])
    assert (len(nothing.errors), nothing.missed) == (0, 0)
    assert math.isnan(nothing.mean)
    missed = landmark_errors(BOX, POINTS[None], np.empty((0, 4)), none)
    assert (len(missed.errors), missed.missed) == (0, 1)
    assert joined_errors([]).missed == 0


def test_the_best_overlap_is_compared_and_unknown_points_are_passed_over() -> None:
    boxes = np.concatenate([BOX + 4, BOX, BOX + 100])
    landmarks = np.stack([POINTS + 50, POINTS + np.float32([2, 0]), POINTS])
    truth_boxes = np.concatenate([BOX, BOX + 100, BOX + 300])
    truth = np.stack([POINTS, np.full((5, 2), np.nan, np.float32), POINTS + 300])
    result = landmark_errors(truth_boxes, truth, boxes, landmarks)
    np.testing.assert_allclose(result.errors, [0.1])  # every point 2 px off
    assert result.missed == 1
    both = joined_errors([result, result])
    assert (len(both.errors), both.missed, both.mean) == (2, 2, pytest.approx(0.1))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="wanted"):
        normalised_mean_error(np.zeros((1, 5, 2)), np.zeros((1, 68, 2)))
