"""WIDER FACE's average precision, step for step as the official tool computes it.

Yang et al. 2016, "WIDER FACE: A Face Detection Benchmark" (https://arxiv.org/abs/1511.06523), and its evaluation code:

* scores are normalised to 0…1 over the whole set;
* 1,000 thresholds, 0.999 down to 0; a photograph's detections above a threshold count up to its last one;
* overlap in VOC's whole pixels: widths and heights are ``x2 - x1 + 1``;
* a detection is judged by the face that it overlaps most, whether or not another one holds that face already;
* faces outside the subset (easy, medium, hard) are neither faces nor false alarms, but a face counted twice is a false
  alarm; photographs without labelled faces give no false alarms at all.

So the figure differs from the AP of `facekd.evaluation.detection`, and only this one may be set beside published ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.evaluation.detection import PhotographDetections

SUBSETS = ("easy", "medium", "hard")
THRESHOLDS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class WiderPhotograph:
    """One photograph with the faces that each subset counts.

    Attributes:
        name: ``event/file.jpg``.
        boxes: (N, 4) float32 ``x1, y1, x2, y2`` with ``x2 = x + w`` as the official tool has it.
        subsets: for "easy", "medium" and "hard", (N,) bool: the subset counts the face.
    """

    name: str
    boxes: NDArray[np.float32]
    subsets: Mapping[str, NDArray[np.bool_]]


def wider_figures(
    photographs: Sequence[WiderPhotograph], detections: Sequence[PhotographDetections]
) -> dict[str, float | int]:
    """The figures of `facekd evaluate wider`: ``{"easy", "medium", "hard", "photographs"}``, APs in [0, 1].

    Raises:
        ValueError: the two sequences differ in length.
    """
    if len(photographs) != len(detections):
        raise ValueError(f"{len(photographs)} photographs but detections of {len(detections)}: one entry each, please")
    ordered = normalised(detections)
    figures: dict[str, float | int] = {
        subset: wider_average_precision(photographs, ordered, subset) for subset in SUBSETS
    }
    figures["photographs"] = len(photographs)
    return figures


def normalised(detections: Sequence[PhotographDetections]) -> list[PhotographDetections]:
    """Detections by falling score, with scores moved and scaled to 0…1 over the whole set."""
    everything = np.concatenate([np.empty(0), *(found.scores for found in detections)])
    low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
    span = high - low if high > low else 1.0
    result = []
    for found in detections:
        order = np.argsort(-found.scores, kind="stable")
        scores = (found.scores[order].astype(np.float64) - low) / span
        result.append(PhotographDetections(found.boxes[order], scores))
    return result


def wider_average_precision(
    photographs: Sequence[WiderPhotograph],
    detections: Sequence[PhotographDetections],
    subset: str,
    iou_threshold: float = 0.5,
) -> float:
    """Average precision of one subset.

    Args:
        photographs: the labels.
        detections: normalised and by falling score, as `normalised` returns them.
        subset: "easy", "medium" or "hard".
        iou_threshold: least overlap of a match.

    Returns:
        AP in [0, 1]; NaN if the subset counts no face.
    """
    proposals = np.zeros(THRESHOLDS, np.int64)
    recalled = np.zeros(THRESHOLDS, np.int64)
    faces = 0
    for photograph, found in zip(photographs, detections, strict=True):
        counted = photograph.subsets[subset]
        faces += int(counted.sum())
        if not len(photograph.boxes) or not len(found.boxes):
            continue
        is_proposal, faces_so_far = judge(photograph.boxes, counted, found.boxes, iou_threshold)
        # How many of this photograph's detections pass each threshold; the last of them is where its counts are read.
        passing = np.searchsorted(-found.scores, -(1 - np.arange(1, THRESHOLDS + 1) / THRESHOLDS), side="right")
        proposals += np.concatenate([[0], np.cumsum(is_proposal)])[passing]
        recalled += np.concatenate([[0], faces_so_far])[passing]
    if not faces:
        return float("nan")
    # Nothing proposed yet: 0 / 0, which the official tool's maximum passes over, as it does a precision of 0.
    precision = np.divide(recalled, proposals, out=np.zeros(THRESHOLDS), where=proposals > 0)
    return voc_average_precision(recalled / faces, precision)


def judge(
    faces: NDArray[np.float32], counted: NDArray[np.bool_], boxes: NDArray[Any], iou_threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Walk through one photograph's detections by falling score.

    Returns:
        (whether each detection is a proposal, that is, does not fall on a face outside the subset; how many faces of
        the subset were found up to and with each detection).
    """
    overlaps = overlap_in_whole_pixels(boxes, faces)
    best = overlaps.argmax(axis=1)
    matched = overlaps[np.arange(len(boxes)), best] >= iou_threshold
    is_proposal = ~(matched & ~counted[best])
    first = np.zeros(len(boxes), bool)
    first[np.unique(np.where(matched, best, -1), return_index=True)[1]] = True
    found_now = first & matched & counted[best]
    return is_proposal, np.cumsum(found_now)


def overlap_in_whole_pixels(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union (N, M) with VOC's "+1": a box from 2 to 4 is three pixels wide."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    opposite = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(opposite - corner + 1, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1) for boxes in (a, b)]
    return np.asarray(inside / (areas[0][:, None] + areas[1][None, :] - inside), np.float64)


def voc_average_precision(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Area under the precision envelope over recall, which must rise; all points, as in VOC since 2010."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    envelope = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    return float((np.diff(recall) * envelope[1:]).sum())


def read_wider_labels(source: str | os.PathLike[str]) -> list[WiderPhotograph]:
    """Read labels with subsets: a text file, or the folder of the official ``.mat`` files.

    The text has ``# event/file.jpg width height`` before the faces of a photograph and ``x y w h easy medium hard``
    for each face, the flags 0 or 1.

    Raises:
        DataError: the labels cannot be read, or are not in this form.
    """
    path = Path(source)
    photographs = _read_mat(path) if path.is_dir() else _read_text(path)
    if not any(len(photograph.boxes) for photograph in photographs):
        raise DataError(f"{path} labels no face in {len(photographs)} photographs: there is nothing to find")
    return photographs


def _read_text(path: Path) -> list[WiderPhotograph]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the label file {path}: {error}") from error
    blocks: list[tuple[str, list[list[float]]]] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("#"):
            words = line[1:].rsplit(maxsplit=2)
            if len(words) != 3:
                raise DataError(f"{path}, line {number}: wanted '# event/file.jpg width height', got {line!r}")
            blocks.append((words[0].strip(), []))
        elif line.strip():
            try:
                values = [float(word) for word in line.split()]
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}; a line holds numbers only.") from error
            if len(values) != 7 or not blocks or not set(values[4:]) <= {0.0, 1.0}:
                raise DataError(
                    f"{path}, line {number}: wanted 'x y w h easy medium hard' below a '#' line, got {line!r}"
                )
            blocks[-1][1].append(values)
    return [_photograph(name, np.array(rows, np.float64).reshape(-1, 7)) for name, rows in blocks]


def _photograph(name: str, table: NDArray[np.float64]) -> WiderPhotograph:
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1).astype(np.float32)
    return WiderPhotograph(name, boxes, {subset: table[:, 4 + k] > 0 for k, subset in enumerate(SUBSETS)})


def _read_mat(folder: Path) -> list[WiderPhotograph]:
    from scipy.io import loadmat  # takes a moment, and most labels are text

    try:
        faces = loadmat(folder / "wider_face_val.mat")
        lists = {subset: loadmat(folder / f"wider_{subset}_val.mat")["gt_list"] for subset in SUBSETS}
        photographs = []
        for event in range(len(faces["event_list"])):
            event_name = str(faces["event_list"][event, 0][0])
            for number, file in enumerate(faces["file_list"][event, 0][:, 0]):
                boxes = faces["face_bbx_list"][event, 0][number, 0].astype(np.float64).reshape(-1, 4)
                table = np.concatenate([boxes, np.zeros((len(boxes), 3))], axis=1)
                for column, subset in enumerate(SUBSETS):
                    counted = lists[subset][event, 0][number, 0].astype(np.int64).ravel() - 1  # MATLAB counts from 1
                    table[counted, 4 + column] = 1
                photographs.append(_photograph(f"{event_name}/{file[0]}.jpg", table))
    except (OSError, KeyError, IndexError, ValueError, TypeError) as error:
        raise DataError(
            f"Cannot read WIDER FACE's ground truth in {folder}: {error}. Wanted there: wider_face_val.mat, "
            "wider_easy_val.mat, wider_medium_val.mat and wider_hard_val.mat of the official evaluation tools."
        ) from error
    return photographs
