"""Suppression against a naive loop, and its order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.detection.nms import drop_nested, nms, soft_nms
from facekd.geometry import box_iou

cases = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20), st.integers(0, 4)),
    max_size=12,
).map(
    lambda rows: (
        np.array([[x, y, x + w, y + h] for x, y, w, h, _ in rows], float).reshape(-1, 4),
        np.array([s / 4 for *_, s in rows], float),
    )
)


def naive_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(box_iou(boxes[[i]], boxes[[j]])[0, 0] <= threshold for j in kept):
            kept.append(i)
    return kept


@given(cases, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_against_the_naive_loop(case: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    boxes, scores = case
    assert nms(boxes, scores, threshold).tolist() == naive_nms(boxes, scores, threshold)


def test_ties_go_by_index() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10]], float)
    assert nms(boxes, [0.5, 0.5, 0.9], 0.4).tolist() == [2, 0]


def test_empty_and_wrong() -> None:
    assert nms(np.zeros((0, 4)), [], 0.5).tolist() == []
    assert soft_nms(np.zeros((0, 4)), [])[0].tolist() == []
    with pytest.raises(ValueError, match="one score"):
        nms(np.zeros((2, 4)), [1.0], 0.5)


def test_nested_boxes_go_only_for_a_better_and_larger_one() -> None:
    face = [0, 0, 100, 100]
    eye, beside, over_the_edge, twin = [20, 20, 40, 40], [90, 0, 120, 30], [85, 0, 105, 20], [5, 5, 95, 95]
    boxes = [eye, face, beside, over_the_edge, twin]
    assert drop_nested(boxes, [0.6, 0.9, 0.6, 0.6, 0.6]).tolist() == [1, 2, 3, 4]  # the eye goes
    assert drop_nested(boxes, [0.95, 0.9, 0.6, 0.6, 0.6]).tolist() == [0, 1, 2, 3, 4]  # but not when it is surer
    assert drop_nested([over_the_edge, face], [0.5, 0.9], share=0.7).tolist() == [1]
    assert drop_nested(np.zeros((0, 4)), []).tolist() == []


def test_soft_nms_lowers_scores_by_the_formula() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [50, 0, 60, 10]], float)
    scores = np.array([0.9, 0.8, 0.85])
    order, lowered = soft_nms(boxes, scores)
    assert order.tolist() == [0, 2, 1]
    np.testing.assert_allclose(lowered, [0.9, 0.85, 0.8 * np.exp(-((1 / 3) ** 2) / 0.5)])
    assert scores.tolist() == [0.9, 0.8, 0.85]  # the caller's scores stay


@given(cases)
def test_soft_nms_only_lowers_and_falls(case: tuple[np.ndarray, np.ndarray]) -> None:
    boxes, scores = case
    order, lowered = soft_nms(boxes, scores)
    assert len(set(order.tolist())) == len(order)
    assert (lowered <= scores[order] + 1e-12).all()
    assert (np.diff(lowered) <= 1e-12).all()
