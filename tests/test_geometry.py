"""Boxes and similarity transforms against naive loops and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facekd.geometry import (
    apply_affine,
    box_area,
    box_iou,
    clip_boxes,
    compose_affine,
    estimate_similarity,
    invert_affine,
    share_inside,
)

coordinates = st.floats(-500, 500, allow_nan=False, width=32)
box_arrays = hnp.arrays(np.float64, st.tuples(st.integers(0, 6), st.just(4)), elements=coordinates)


def naive_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = width * height if width > 0 and height > 0 else 0.0
    areas = [max(c[2] - c[0], 0) * max(c[3] - c[1], 0) for c in (a, b)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),  # the same
        ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),  # only touching
        ([0, 0, 10, 10], [5, 0, 15, 10], 1 / 3),  # half over half
        ([0, 0, 10, 10], [2, 2, 4, 4], 0.04),  # inside
        ([3, 3, 3, 3], [3, 3, 3, 3], 0.0),  # both empty
    ],
)
def test_iou_known(a: list[float], b: list[float], expected: float) -> None:
    assert box_iou([a], [b])[0, 0] == pytest.approx(expected)


@given(box_arrays, box_arrays)
def test_iou_agrees_with_the_naive_loop(a: np.ndarray, b: np.ndarray) -> None:
    a = np.concatenate([np.minimum(a[:, :2], a[:, 2:]), np.maximum(a[:, :2], a[:, 2:])], axis=1)
    b = np.concatenate([np.minimum(b[:, :2], b[:, 2:]), np.maximum(b[:, :2], b[:, 2:])], axis=1)
    got = box_iou(a, b)
    assert got.shape == (len(a), len(b))
    for i in range(len(a)):
        for j in range(len(b)):
            assert got[i, j] == pytest.approx(naive_iou(a[i], b[j]), abs=1e-9)


def test_empty_and_wrong_boxes() -> None:
    assert box_iou(np.zeros((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)
    assert box_area([]).shape == (0,)
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        box_area([[1, 2, 3]])


def test_area_and_clip() -> None:
    assert box_area([[0, 0, 3, 4], [5, 5, 1, 1]]).tolist() == [12, 0]
    original = np.array([[-5.0, 2, 30, 50], [100, 100, 120, 120]])
    assert clip_boxes(original, 20, 40).tolist() == [[0, 2, 20, 40], [20, 40, 20, 40]]
    assert original[0, 0] == -5  # the caller's boxes stay


@given(
    hnp.arrays(np.float64, (5, 2), elements=st.floats(-100, 100)),
    st.floats(0.05, 20),
    st.floats(-np.pi, np.pi),
    st.tuples(st.floats(-1000, 1000), st.floats(-1000, 1000)),
)
def test_known_similarity_is_recovered(
    points: np.ndarray, scale: float, angle: float, shift: tuple[float, float]
) -> None:
    points = points + np.array([[0, 0], [300, 0], [0, 300], [300, 300], [150, 150]])  # never all in one spot
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    truth = np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]])
    np.testing.assert_allclose(estimate_similarity(points, apply_affine(truth, points)), truth, atol=1e-6)


@given(hnp.arrays(np.float64, (5, 2), elements=st.floats(-50, 50)))
def test_similarity_is_the_least_squares_one(noise: np.ndarray) -> None:
    source = np.array([[0, 0], [100, 0], [50, 60], [10, 120], [90, 120]], float)
    target = source[:, ::-1] * [-1.3, 1.3] + 40 + noise
    # A similarity is linear in (a, b, tx, ty): x' = a x - b y + tx, y' = b x + a y + ty.
    rows = np.zeros((10, 4))
    rows[0::2] = np.column_stack([source[:, 0], -source[:, 1], np.ones(5), np.zeros(5)])
    rows[1::2] = np.column_stack([source[:, 1], source[:, 0], np.zeros(5), np.ones(5)])
    a, b, tx, ty = np.linalg.lstsq(rows, target.ravel(), rcond=None)[0]
    got = estimate_similarity(source, target)
    # Umeyama's scale is that of the rotation's best fit, as the linear solution's is: both are the one minimum.
    np.testing.assert_allclose(got, [[a, -b, tx], [b, a, ty]], atol=1e-6)


def test_never_a_reflection() -> None:
    source = np.array([[0, 0], [10, 0], [5, 6], [1, 12], [9, 14]], float)
    assert np.linalg.det(estimate_similarity(source, source * [-1, 1])[:, :2]) > 0


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (np.ones((5, 2)), np.zeros((5, 2))),  # all in one spot
        (np.eye(2), np.full((2, 2), 3.0)),  # onto one spot
        (np.eye(2)[:1], np.eye(2)[:1]),  # one point
        (np.zeros((5, 2)), np.zeros((4, 2))),  # different numbers
        (np.array([[0, 0], [np.nan, 1]]), np.eye(2)),  # not a number
    ],
)
def test_degenerate_points(source: np.ndarray, target: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"similarity|shape|finite"):
        estimate_similarity(source, target)


def test_affine_there_and_back() -> None:
    matrix = [[2, -1, 5], [1, 2, -7]]
    points = np.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_allclose(apply_affine(invert_affine(matrix), apply_affine(matrix, points)), points, atol=1e-12)
    with pytest.raises(ValueError, match="singular"):
        invert_affine([[1, 2, 0], [2, 4, 0]])


@given(box_arrays, box_arrays)
def test_share_inside_is_the_naive_one(boxes: np.ndarray, regions: np.ndarray) -> None:
    shares = share_inside(boxes, regions)
    assert shares.shape == (len(boxes),)
    for share, box in zip(shares, boxes, strict=True):
        area = max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
        inside = [
            max(min(box[2], r[2]) - max(box[0], r[0]), 0) * max(min(box[3], r[3]) - max(box[1], r[1]), 0)
            for r in regions
        ]
        assert share == pytest.approx(max(inside, default=0) / area if area > 0 else 0, abs=1e-9)


def test_share_inside_of_nothing() -> None:
    assert share_inside(np.empty((0, 4)), np.empty((0, 4))).tolist() == []
    assert share_inside([[0, 0, 2, 2]], np.empty((0, 4))).tolist() == [0.0]
    assert share_inside([[0, 0, 2, 2], [5, 5, 5, 9]], [[0, 0, 1, 4], [4, 4, 9, 9]]).tolist() == [0.5, 0.0]


def test_composed_maps_do_one_after_the_other() -> None:
    rng = np.random.default_rng(0)
    first, second, points = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.normal(size=(7, 2))
    np.testing.assert_allclose(
        apply_affine(compose_affine(second, first), points), apply_affine(second, apply_affine(first, points))
    )
    np.testing.assert_allclose(compose_affine(invert_affine(first), first), np.eye(2, 3), atol=1e-12)
