"""Non-maximum suppression: of boxes that show the same face, keep the best. Deterministic: ties go by index."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facekd.geometry import box_area, box_iou

# Keeps two empty boxes from dividing 0 by 0.
_TINY_AREA = 1e-12


def nms(boxes: npt.ArrayLike, scores: npt.ArrayLike, iou_threshold: float) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4) ``x1, y1, x2, y2``.
        scores: (N,), higher is better.
        iou_threshold: a box that overlaps a kept one by more than this (IoU, 0..1) is dropped.

    Returns:
        Indices of the kept boxes by falling score; equal scores by rising index.
    """
    corners, values = _checked(boxes, scores)
    order = np.argsort(-values, kind="stable")
    # As box_iou, written out over sorted columns: this loop runs once for every kept box of every photograph.
    left, top, right, bottom = (np.ascontiguousarray(column) for column in corners[order].T)
    area = box_area(corners[order])
    kept: list[int] = []
    while order.size:
        kept.append(int(order[0]))
        width = np.minimum(right, right[0]) - np.maximum(left, left[0])
        height = np.minimum(bottom, bottom[0]) - np.maximum(top, top[0])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        alive = shared / np.maximum(area + area[0] - shared, _TINY_AREA) <= iou_threshold
        alive[0] = False
        order, left, top, right, bottom, area = (column[alive] for column in (order, left, top, right, bottom, area))
    return np.asarray(kept, np.intp)


def drop_nested(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, share: float = 0.8, times_larger: float = 1.5
) -> npt.NDArray[np.intp]:
    """Drop boxes that lie inside a larger box of a better score: parts of a face that were taken for faces.

    Suppression by IoU leaves them, since a small box shares little of a large one. A small box that scores higher
    stays, so a doubtful box round a group of people never takes their faces away.

    Args:
        boxes: (N, 4) ``x1, y1, x2, y2``.
        scores: (N,), higher is better.
        share: a box is dropped when at least this share of its area lies in the other one.
        times_larger: the other box has at least so many times its area.

    Returns:
        Indices of the boxes that stay, by falling score; equal scores by rising index.
    """
    corners, values = _checked(boxes, scores)
    order = np.argsort(-values, kind="stable")
    corners, area = corners[order], box_area(corners[order])
    stays = np.ones(len(order), np.bool_)
    for i in range(1, len(order)):
        larger = corners[:i][(area[:i] >= times_larger * area[i]) & stays[:i]]
        sides = np.minimum(larger[:, 2:], corners[i, 2:]) - np.maximum(larger[:, :2], corners[i, :2])
        shared = np.maximum(sides, 0).prod(axis=1)
        stays[i] = not (shared >= share * area[i]).any()
    return order[stays]


def soft_nms(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, sigma: float = 0.5, score_threshold: float = 0.001
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Soft-NMS with the Gaussian penalty (Bodla et al. 2017, equation 3): overlapping boxes lose score, not existence.

    Args:
        boxes: (N, 4) ``x1, y1, x2, y2``.
        scores: (N,), 0..1, higher is better.
        sigma: width of the penalty ``exp(-iou² / sigma)``; the paper uses 0.5.
        score_threshold: a box is dropped when its score falls below this.

    Returns:
        Indices in the order in which they were chosen (falling new score; ties by rising index), and the new scores.
    """
    corners, values = _checked(boxes, scores)
    remaining = np.arange(len(values))
    remaining = remaining[values >= score_threshold]
    kept: list[int] = []
    while remaining.size:
        best = int(remaining[np.argmax(values[remaining])])
        kept.append(best)
        remaining = remaining[remaining != best]
        overlap = box_iou(corners[best][None], corners[remaining])[0]
        values[remaining] *= np.exp(-(overlap**2) / sigma)
        remaining = remaining[values[remaining] >= score_threshold]
    indices = np.asarray(kept, np.intp)
    return indices, values[indices]


def _checked(boxes: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    values = np.array(scores, np.float64).reshape(-1)
    if len(corners) != len(values):
        raise ValueError(f"every box needs one score, got {len(corners)} boxes and {len(values)} scores")
    return corners, values
