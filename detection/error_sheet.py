"""The largest faces that a detector missed, and its surest false alarms, as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.detection.evaluate import FoundFaces
from facekd.detection.labels import LabelledPhotograph
from facekd.evaluation.detection import match_photograph
from facekd.evaluation.photographs import Photographs
from facekd.geometry import box_area, box_iou
from facekd.images import load_image, save_image

SIDE_PX = 128
CAPTION_PX = 16
COLUMNS = 6
EACH = 18

Entry = tuple[int, NDArray[np.float32], str]


def worst_misses(
    labels: Sequence[LabelledPhotograph], found: Sequence[FoundFaces], score_threshold: float, each: int = EACH
) -> tuple[list[Entry], list[Entry]]:
    """The largest missed faces and the surest false alarms.

    Returns:
        Two lists of (photograph's number, box, caption), worst first.
    """
    misses: list[tuple[float, Entry]] = []
    alarms: list[tuple[float, Entry]] = []
    for number, (photograph, faces) in enumerate(zip(labels, found, strict=True)):
        scores, hits, found_scores = match_photograph(photograph, faces.boxes_only())
        truths = photograph.boxes[~photograph.ignore]
        for box, score in zip(truths, found_scores, strict=True):
            if score < score_threshold:
                size = float(np.sqrt(box_area(box[None])[0]))
                misses.append((size, (number, box, f"missed, {size:.0f} px")))
        false_scores = {float(score) for score in scores[~hits] if score >= score_threshold}
        for box, score in zip(faces.boxes, faces.scores, strict=True):
            free = not len(truths) or float(box_iou(box[None], truths).max()) < 0.5
            if float(score) in false_scores and free:
                alarms.append((float(score), (number, box, f"alarm, {score:.2f}")))
    pick = [[entry for _, entry in sorted(kind, key=lambda item: -item[0])[:each]] for kind in (misses, alarms)]
    return pick[0], pick[1]


def save_miss_sheet(
    target: str | os.PathLike[str],
    photographs: Photographs,
    labels: Sequence[LabelledPhotograph],
    found: Sequence[FoundFaces],
    score_threshold: float,
) -> None:
    """Save each miss and each false alarm with its surroundings, the box drawn."""
    misses, alarms = worst_misses(labels, found, score_threshold)
    entries = misses + alarms
    lines = max(-(-len(entries) // COLUMNS), 1)
    cell_height = SIDE_PX + CAPTION_PX
    sheet = np.full((lines * cell_height, COLUMNS * SIDE_PX, 3), 255, np.uint8)
    for k, (number, box, caption) in enumerate(entries):
        picture = load_image(photographs.read(labels[number].name))
        top, left = k // COLUMNS * cell_height, k % COLUMNS * SIDE_PX
        sheet[top : top + SIDE_PX, left : left + SIDE_PX] = _surroundings(picture, box)
        position = (left + 2, top + SIDE_PX + 12)
        cv2.putText(sheet, caption, position, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    save_image(target, sheet)


def _surroundings(picture: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A square three times as large as the box round it, shrunk or enlarged to `SIDE_PX`, grey beyond the edges."""
    centre = (box[:2] + box[2:]) / 2
    half = float(max(1.5 * (box[2:] - box[:2]).max(), 8))
    scale = SIDE_PX / (2 * half)
    matrix = np.array([[scale, 0, SIDE_PX / 2 - scale * centre[0]], [0, scale, SIDE_PX / 2 - scale * centre[1]]])
    view = cv2.warpAffine(picture, matrix, (SIDE_PX, SIDE_PX), borderMode=cv2.BORDER_CONSTANT, borderValue=(128,) * 3)
    low, high = (np.round(matrix[:, :2] @ corner + matrix[:, 2]).astype(int) for corner in (box[:2], box[2:]))
    cv2.rectangle(view, (int(low[0]), int(low[1])), (int(high[0]), int(high[1])), (255, 60, 0), 1)
    return np.asarray(view, np.uint8)
