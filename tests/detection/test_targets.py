"""Matching of anchors to faces, against a loop written from the facts, and its corner cases."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.detection.anchors import anchors
from facekd.detection.codec import decode_boxes, decode_landmarks
from facekd.detection.data.targets import Targets, make_targets

SIZE = 96


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def corners(size: int) -> np.ndarray:
    squares = anchors(size, size).astype(np.float64)
    return np.concatenate([squares[:, :2] - squares[:, 2:] / 2, squares[:, :2] + squares[:, 2:] / 2], axis=1)


def targets(boxes: list[list[float]], ignore: list[bool] | None = None, size: int = SIZE) -> Targets:
    table = np.array(boxes, np.float32).reshape(-1, 4)
    flags = np.array(ignore if ignore is not None else [False] * len(table), bool)
    points = np.full((len(table), 5, 2), np.nan, np.float32)
    return make_targets(size, table, points, flags, np.ones(len(table), np.float32))


def test_no_face_makes_every_anchor_negative() -> None:
    result = targets([])
    assert (result.labels == 0).all()
    assert result.boxes.shape == (0, 4)
    assert result.landmarks.shape == (0, 10)


@pytest.mark.parametrize("seed", range(6))
def test_labels_agree_with_a_loop_over_anchors_and_faces(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, SIZE - 30, (4, 2))
    boxes = np.concatenate([low, low + rng.uniform(6, 30, (4, 2)) * rng.uniform(1, 2)], axis=1).astype(np.float32)
    result = targets(boxes.tolist(), [False, False, False, True])

    squares = corners(SIZE)
    table = np.array([[iou(box, square) for square in squares] for box in boxes])
    owner: dict[int, int] = {}
    for face in sorted(range(3), key=lambda f: -table[f].max()):
        owner[max((a for a in range(len(squares)) if a not in owner), key=lambda a: table[face][a])] = face
    for a, square in enumerate(squares):
        if a not in owner and table[:3, a].max() >= 0.35:
            owner[a] = int(table[:3, a].argmax())
        inside = np.clip(np.minimum(square[2:], boxes[3, 2:]) - np.maximum(square[:2], boxes[3, :2]), 0, None).prod()
        ignored = table[3, a] >= 0.35 or inside / (square[2:] - square[:2]).prod() >= 0.5 or a == table[3].argmax()
        assert result.labels[a] == (1 if a in owner else -1 if ignored else 0)
    assert result.positives.tolist() == sorted(owner)
    for index, codes in zip(result.positives, result.boxes, strict=True):
        decoded = decode_boxes(codes, anchors(SIZE, SIZE)[index])
        np.testing.assert_allclose(decoded, boxes[owner[int(index)]], atol=1e-3)


def test_a_face_far_smaller_than_any_anchor_keeps_one() -> None:
    result = targets([[40, 40, 44, 45]])
    assert len(result.positives) == 1
    assert (result.labels == 1).sum() == 1


def test_two_faces_on_one_spot_keep_an_anchor_each() -> None:
    result = targets([[40, 40, 45, 45], [41, 41, 46, 46]])
    decoded = decode_boxes(result.boxes, anchors(SIZE, SIZE)[result.positives])
    assert sorted(round(float(box[0])) for box in decoded) == [40, 41]


def test_a_tiny_ignore_region_takes_one_anchor_out_of_the_negatives() -> None:
    assert (targets([[50, 50, 53, 53]], [True]).labels == -1).sum() == 1


def test_an_ignore_region_leaves_the_face_inside_it_positive() -> None:
    alone = targets([[30, 30, 60, 62]])
    covered = targets([[30, 30, 60, 62], [0, 0, SIZE, SIZE]], [False, True])
    assert (covered.labels == 1).tolist() == (alone.labels == 1).tolist()
    # Only anchors that reach far beyond the region stay negative.
    squares = corners(SIZE)
    within = (squares >= 0).all(axis=1) & (squares <= SIZE).all(axis=1)
    assert within.any()
    assert (covered.labels[within] != 0).all()


def test_landmarks_decode_to_the_face_and_count_only_where_known() -> None:
    boxes = np.array([[10, 10, 40, 44], [50, 50, 90, 92]], np.float32)
    points = np.full((2, 5, 2), np.nan, np.float32)
    points[1] = [[60, 60], [80, 60], [70, 70], [62, 82], [78, 82]]
    result = make_targets(SIZE, boxes, points, np.zeros(2, bool), np.array([2.0, 3.0], np.float32))
    squares = anchors(SIZE, SIZE)[result.positives]
    second = decode_boxes(result.boxes, squares)[:, 0] > 45
    assert second.any()
    assert not second.all()
    assert (result.landmark_weights == np.where(second, 3.0, 0.0)).all()
    assert np.isfinite(result.landmarks).all()
    decoded = decode_landmarks(result.landmarks[second], squares[second])
    np.testing.assert_allclose(decoded, np.broadcast_to(points[1], decoded.shape), atol=1e-3)
