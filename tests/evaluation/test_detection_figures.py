"""Detection figures against hand-computed values and against a naive loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from facekd.evaluation.detection import (
    PhotographDetections,
    average_precision,
    average_precision_range,
    detection_curve,
    detection_figures,
    match_detections,
    recall_at_fppi,
    recall_at_precision,
    recall_by_size,
    threshold_at_fppi,
    threshold_at_precision,
)


@dataclass
class Truth:
    boxes: np.ndarray
    ignore: np.ndarray


def truth(*boxes: tuple[float, ...], ignore: tuple[tuple[float, ...], ...] = ()) -> Truth:
    both = np.array([*boxes, *ignore], np.float32).reshape(-1, 4)
    return Truth(both, np.array([False] * len(boxes) + [True] * len(ignore), bool))


def found(*scored: tuple[float, ...]) -> PhotographDetections:
    table = np.array(scored, np.float32).reshape(-1, 5)
    return PhotographDetections(table[:, :4], table[:, 4])


A, B, C = (0, 0, 10, 10), (20, 20, 30, 30), (50, 50, 60, 60)
FAR = (80, 80, 90, 90)


@pytest.mark.parametrize(
    ("truths", "detections", "ap", "at_precision", "at_fppi"),
    [
        pytest.param([], [], math.nan, math.nan, math.nan, id="nothing at all"),
        pytest.param([truth()], [found((*A, 0.9))], math.nan, math.nan, math.nan, id="no faces"),
        pytest.param([truth(A)], [found()], 0.0, 0.0, 0.0, id="nothing found"),
        pytest.param([truth(A)], [found((*A, 0.9))], 1.0, 1.0, 1.0, id="all found"),
        pytest.param([truth(A)], [found((*FAR, 0.9))], 0.0, 0.0, 0.0, id="only a false alarm"),
        # Precision 0/1, 1/2, 2/3: the envelope is 2/3 everywhere; a false alarm stands before every hit.
        pytest.param(
            [truth(A, B)], [found((*FAR, 0.9), (*A, 0.8), (*B, 0.7))], 2 / 3, 0.0, 0.0, id="false alarm first"
        ),
        # Points (1/3, 1), (1/3, 1/2), (2/3, 2/3): envelope 1, then 2/3, and a third of the recall never reached.
        pytest.param([truth(A, B, C)], [found((*A, 0.9), (*FAR, 0.8), (*B, 0.7))], 5 / 9, 1 / 3, 1 / 3, id="by hand"),
        # The second detection of one face is a false alarm.
        pytest.param([truth(A, B)], [found((*A, 0.9), (*A, 0.8), (*B, 0.7))], 5 / 6, 0.5, 0.5, id="found twice"),
        # Equal scores enter together: precision 1/2 at recall 1 is the only point, in either order.
        pytest.param([truth(A)], [found((*A, 0.5), (*FAR, 0.5))], 0.5, 0.0, 0.0, id="tie, hit first"),
        pytest.param([truth(A)], [found((*FAR, 0.5), (*A, 0.5))], 0.5, 0.0, 0.0, id="tie, false alarm first"),
        # Half inside the ignore region (exactly): left out. A little less: a false alarm.
        pytest.param([truth(A, ignore=(B,))], [found((20, 25, 30, 35, 0.9), (*A, 0.8))], 1.0, 1.0, 1.0, id="ignored"),
        pytest.param([truth(A, ignore=(B,))], [found((20, 26, 30, 36, 0.9), (*A, 0.8))], 0.5, 0.0, 0.0, id="beside it"),
        # A truth inside an ignore region is still found.
        pytest.param([truth(A, ignore=(A,))], [found((*A, 0.9))], 1.0, 1.0, 1.0, id="truth in ignore region"),
    ],
)
def test_by_hand(
    truths: list[Truth], detections: list[PhotographDetections], ap: float, at_precision: float, at_fppi: float
) -> None:
    matches = match_detections(truths, detections)
    assert average_precision(matches) == pytest.approx(ap, nan_ok=True)
    assert recall_at_precision(matches) == pytest.approx(at_precision, nan_ok=True)
    assert recall_at_fppi(matches) == pytest.approx(at_fppi, nan_ok=True)


def test_a_detection_takes_the_best_free_truth() -> None:
    # Both detections overlap the first face best; the weaker one still finds the second, which it overlaps by 2/3.
    first, second = (0, 0, 10, 10), (0, 2, 10, 12)
    matches = match_detections([truth(first, second)], [found((0, 0, 10, 10, 0.9), (0, 0, 10, 10, 0.8))])
    assert matches.hits.tolist() == [True, True]
    np.testing.assert_allclose(matches.found, [0.9, 0.8], rtol=1e-6)


def test_iou_of_exactly_one_half_is_a_match() -> None:
    assert match_detections([truth((0, 0, 10, 10))], [found((0, 0, 10, 5, 0.9))]).hits.tolist() == [True]
    assert match_detections([truth((0, 0, 10, 10))], [found((0, 0, 10, 4.9, 0.9))]).hits.tolist() == [False]


def test_false_alarms_over_photographs() -> None:
    truths = [truth(A)] + [truth() for _ in range(9)]
    detections = [found((*A, 0.5))] + [found((*FAR, 0.9))] + [found() for _ in range(8)]
    matches = match_detections(truths, detections)
    assert recall_at_fppi(matches, 0.1) == 1.0  # one false alarm in ten photographs is allowed
    assert recall_at_fppi(matches, 0.0999) == 0.0
    assert recall_at_precision(matches, 0.5) == 1.0
    assert threshold_at_precision(matches, 0.5) == pytest.approx(0.5)
    assert threshold_at_precision(matches, 0.6) == math.inf
    assert threshold_at_fppi(matches, 0.1) == pytest.approx(0.5)
    assert threshold_at_fppi(matches, 0.09) == math.inf


def test_figures_have_the_documented_keys() -> None:
    figures = detection_figures([truth(A)], [found((*A, 0.9))])
    assert figures == {"ap": 1.0, "recall_at_precision_0.90": 1.0, "recall_at_fppi_0.1": 1.0, "images": 1, "faces": 1}


def test_range_of_overlaps() -> None:
    # IoU 0.72: found at 0.50 to 0.70, five of the ten thresholds.
    assert average_precision_range([truth(A)], [found((0, 0, 10, 7.2, 0.9))]) == pytest.approx(0.5)


def test_recall_by_size() -> None:
    truths = [truth((0, 0, 10, 10), (20, 0, 40, 20)), truth((0, 0, 20, 20), ignore=((50, 50, 60, 60),))]
    matches = match_detections(truths, [found((0, 0, 10, 10, 0.3), (20, 0, 40, 20, 0.9)), found()])
    small, middle, large = recall_by_size(truths, matches, 0.5, (0, 16, 32, float("inf")))
    assert (small.faces, small.recall) == (1, 0.0)  # found, but below the threshold
    assert (middle.faces, middle.recall) == (2, 0.5)
    assert large.faces == 0
    assert math.isnan(large.recall)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 labelled photographs but detections of 0"):
        match_detections([truth(A)], [])
    with pytest.raises(ValueError, match="wanted"):
        PhotographDetections(np.zeros((2, 4)), np.zeros(3))


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0.0) * max(height, 0.0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def _naive_ap(truths: list[Truth], detections: list[PhotographDetections]) -> float:
    """Greedy over the whole split at once, envelope by taking the best precision at any higher recall."""
    faces = sum(int((~t.ignore).sum()) for t in truths)
    everything = sorted(
        ((-float(s), i, j) for i, d in enumerate(detections) for j, s in enumerate(d.scores)), key=lambda e: e[0]
    )
    taken: set[tuple[int, int]] = set()
    outcome = []
    for _, i, j in everything:
        box = detections[i].boxes[j]
        best, best_iou = None, 0.5
        for k in np.flatnonzero(~truths[i].ignore):
            overlap = _iou(box, truths[i].boxes[k])
            if (i, int(k)) not in taken and overlap >= best_iou:
                best, best_iou = int(k), overlap
        if best is not None:
            taken.add((i, best))
            outcome.append(True)
            continue
        left_out = False
        for region in truths[i].boxes[truths[i].ignore]:
            width = max(min(box[2], region[2]) - max(box[0], region[0]), 0)
            height = max(min(box[3], region[3]) - max(box[1], region[1]), 0)
            left_out |= width * height >= 0.5 * (box[2] - box[0]) * (box[3] - box[1])
        if not left_out:
            outcome.append(False)
    points = []
    for n in range(1, len(outcome) + 1):
        hits = sum(outcome[:n])
        points.append((hits / faces, hits / n))
    area, before = 0.0, 0.0
    for recall, _ in points:
        if recall > before:
            area += (recall - before) * max(p for r, p in points if r >= recall)
            before = recall
    return area


@pytest.mark.parametrize("seed", range(5))
def test_against_a_naive_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        corner = rng.uniform(0, 60, (count, 2))
        return np.concatenate([corner, corner + rng.uniform(8, 30, (count, 2))], axis=1).astype(np.float32)

    truths, detections = [], []
    for _ in range(20):
        count = int(rng.integers(0, 6))
        labels = Truth(boxes(count), rng.random(count) < 0.3)
        near = labels.boxes + rng.normal(0, 2, (count, 4)).astype(np.float32)
        both = np.concatenate([near, boxes(int(rng.integers(0, 5)))])
        truths.append(labels)
        detections.append(PhotographDetections(both, rng.random(len(both)).astype(np.float32)))
    matches = match_detections(truths, detections)
    assert average_precision(matches) == pytest.approx(_naive_ap(truths, detections), abs=1e-12)
    curve = detection_curve(matches)
    assert (np.diff(curve.recall) >= 0).all()
    assert (np.diff(curve.thresholds) < 0).all()
    assert curve.recall[-1] == np.isfinite(matches.found).mean()
