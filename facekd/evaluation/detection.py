"""Detection figures: matching, average precision, recall at a precision and at a false-alarm rate.

Average precision is the area under the all-point precision envelope (Everingham et al. 2015, "The PASCAL Visual Object
Classes Challenge: A Retrospective", section 3.2, in the form used since VOC 2010). Detections count in falling order of
score over the whole split; those of equal score enter together, so that no figure hangs on the order of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facekd.geometry import box_area, box_iou, share_inside

Floats = NDArray[np.floating[Any]]


class Truths(Protocol):
    """What matching needs to know of a labelled photograph: boxes (N, 4) xyxy and ignore (N,) bool."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """Labelled boxes, ignore regions among them."""

    @property
    def ignore(self) -> NDArray[np.bool_]:
        """Which of them are ignore regions."""


@dataclass(frozen=True, slots=True, eq=False)
class PhotographDetections:
    """What a detector found in one photograph.

    Attributes:
        boxes: (N, 4) float32, ``x1, y1, x2, y2`` in pixels of the photograph.
        scores: (N,) float, higher is surer; any order.
    """

    boxes: Floats
    scores: Floats

    def __post_init__(self) -> None:
        if self.boxes.shape != (len(self.scores), 4) or self.scores.ndim != 1:
            raise ValueError(f"boxes {self.boxes.shape} and scores {self.scores.shape}: wanted (N, 4) and (N,)")


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """The matched detections of a split: all that the figures below need.

    Attributes:
        scores: (K,) float64, falling: every detection that counts (those in ignore regions are left out).
        hits: (K,) bool: the detection found a truth that no surer one had found.
        found: (F,) float64, in the order of photographs and of their labels, ignore regions left out: the score with
            which each truth was found; minus infinity where nothing found it.
        photographs: how many photographs were looked at, those without faces included.
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    found: NDArray[np.float64]
    photographs: int

    @property
    def faces(self) -> int:
        """How many truths there are."""
        return len(self.found)


def match_photograph(
    truth: Truths, detections: PhotographDetections, iou_threshold: float = 0.5, ignore_share: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Match the detections of one photograph to its truths, one to one, by falling score.

    A detection takes the truth of highest overlap among those still free, if that overlap is at least the threshold. A
    detection without a truth that lies at least `ignore_share` inside one ignore region is left out.

    Args:
        truth: boxes and ignore flags of the photograph.
        detections: what the detector found.
        iou_threshold: least intersection over union of a match.
        ignore_share: share of the detection's own area that must lie in an ignore region for it to be left out.

    Returns:
        (scores (K,), hits (K,), found (F,)) as in `Matches`; scores fall, ties keep the detector's order.
    """
    faces = truth.boxes[~truth.ignore]
    order = np.argsort(-detections.scores, kind="stable")
    boxes, scores = detections.boxes[order], detections.scores[order].astype(np.float64)
    found = np.full(len(faces), -np.inf)
    hits = np.zeros(len(boxes), bool)
    counts = np.ones(len(boxes), bool)
    overlaps = box_iou(boxes, faces)
    ignored = share_inside(boxes, truth.boxes[truth.ignore]) >= ignore_share
    free = np.ones(len(faces), bool)
    for i, score in enumerate(scores):
        candidates = np.where(free, overlaps[i], -1.0)
        best = int(candidates.argmax()) if len(faces) else -1
        if best >= 0 and candidates[best] >= iou_threshold:
            free[best] = False
            hits[i] = True
            found[best] = score
        elif ignored[i]:
            counts[i] = False
    return scores[counts], hits[counts], found


def match_detections(
    truths: Sequence[Truths],
    detections: Sequence[PhotographDetections],
    iou_threshold: float = 0.5,
    ignore_share: float = 0.5,
) -> Matches:
    """Match a split photograph by photograph and join the outcome, surest detection first.

    Args:
        truths: the labels, one entry a photograph.
        detections: what was found, in the same order.
        iou_threshold, ignore_share: see `match_photograph`.

    Raises:
        ValueError: the two sequences differ in length.
    """
    if len(truths) != len(detections):
        raise ValueError(
            f"{len(truths)} labelled photographs but detections of {len(detections)}: one entry each, please"
        )
    parts = [
        match_photograph(truth, found, iou_threshold, ignore_share)
        for truth, found in zip(truths, detections, strict=True)
    ]
    scores = np.concatenate([np.empty(0), *(part[0] for part in parts)])
    hits = np.concatenate([np.empty(0, bool), *(part[1] for part in parts)])
    order = np.argsort(-scores, kind="stable")
    return Matches(
        scores=scores[order],
        hits=hits[order],
        found=np.concatenate([np.empty(0), *(part[2] for part in parts)]),
        photographs=len(truths),
    )


@dataclass(frozen=True, slots=True, eq=False)
class DetectionCurve:
    """Every operating point of a detector on a split, from the strictest threshold to the loosest.

    Attributes:
        thresholds: (P,) float64, falling: the score from which detections are accepted.
        recall: (P,) in [0, 1], rising; NaN everywhere if the split has no face.
        precision: (P,) in [0, 1].
        false_alarms: (P,) int64: accepted detections that are no face, over the whole split.
    """

    thresholds: NDArray[np.float64]
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    false_alarms: NDArray[np.int64]


def detection_curve(matches: Matches) -> DetectionCurve:
    """Recall, precision and false alarms at every score that occurs."""
    hits = np.cumsum(matches.hits)
    accepted = np.arange(1, len(matches.scores) + 1)
    # A threshold cannot part equal scores: only the last of each run of ties is an operating point.
    last = np.append(matches.scores[1:] != matches.scores[:-1], True)[: len(matches.scores)]
    hits, accepted = hits[last], accepted[last]
    recall = hits / matches.faces if matches.faces else np.full(len(hits), np.nan)
    return DetectionCurve(
        thresholds=matches.scores[last],
        recall=recall,
        precision=hits / accepted,
        false_alarms=(accepted - hits).astype(np.int64),
    )


def average_precision(matches: Matches) -> float:
    """Area under the all-point precision envelope, in [0, 1]; NaN if the split has no face, 0 if nothing was found."""
    if not matches.faces:
        return float("nan")
    curve = detection_curve(matches)
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    steps = np.diff(curve.recall, prepend=0.0)
    return float((steps * envelope).sum())


def recall_at_precision(matches: Matches, precision: float = 0.90) -> float:
    """The highest recall of any threshold with at least this precision; 0 if none has it, NaN without faces."""
    if not matches.faces:
        return float("nan")
    curve = detection_curve(matches)
    allowed = curve.precision >= precision
    return float(curve.recall[allowed].max()) if allowed.any() else 0.0


def recall_at_fppi(matches: Matches, false_alarms_per_image: float = 0.1) -> float:
    """The highest recall at no more than this many false alarms a photograph; NaN without faces."""
    if not matches.faces:
        return float("nan")
    curve = detection_curve(matches)
    # Compared as a product: 0.1 * 10 photographs must allow one false alarm, whatever 1 / 10 rounds to.
    allowed = curve.false_alarms <= false_alarms_per_image * matches.photographs + 1e-9
    return float(curve.recall[allowed].max()) if allowed.any() else 0.0


def threshold_at_precision(matches: Matches, precision: float = 0.90) -> float:
    """The lowest score threshold whose precision is at least `precision`; infinity if none has it."""
    curve = detection_curve(matches)
    allowed = curve.precision >= precision
    return float(curve.thresholds[allowed].min()) if allowed.any() else float("inf")


def threshold_at_fppi(matches: Matches, false_alarms_per_image: float = 0.1) -> float:
    """The lowest score threshold with no more than this many false alarms a photograph; infinity if none has it."""
    curve = detection_curve(matches)
    allowed = curve.false_alarms <= false_alarms_per_image * matches.photographs + 1e-9
    return float(curve.thresholds[allowed].min()) if allowed.any() else float("inf")


def detection_figures(truths: Sequence[Truths], detections: Sequence[PhotographDetections]) -> dict[str, float | int]:
    """The figures of `facekd evaluate detection`, as its JSON has them.

    Returns:
        ``{"ap", "recall_at_precision_0.90", "recall_at_fppi_0.1", "images", "faces"}``; IoU 0.5 throughout.
    """
    matches = match_detections(truths, detections)
    return {
        "ap": average_precision(matches),
        "recall_at_precision_0.90": recall_at_precision(matches, 0.90),
        "recall_at_fppi_0.1": recall_at_fppi(matches, 0.1),
        "images": matches.photographs,
        "faces": matches.faces,
    }


def average_precision_range(truths: Sequence[Truths], detections: Sequence[PhotographDetections]) -> float:
    """Mean of the average precisions at IoU 0.50, 0.55, …, 0.95 (Lin et al. 2014, "Microsoft COCO", all-point form)."""
    thresholds = [step / 100 for step in range(50, 100, 5)]
    return float(np.mean([average_precision(match_detections(truths, detections, iou)) for iou in thresholds]))


@dataclass(frozen=True, slots=True)
class SizeRecall:
    """Recall among faces of one size: ``low_px <= sqrt(width * height) < high_px``."""

    low_px: float
    high_px: float
    faces: int
    recall: float


def recall_by_size(
    truths: Sequence[Truths],
    matches: Matches,
    score_threshold: float,
    edges_px: Sequence[float] = (0, 16, 24, 32, 64, 128, 256, float("inf")),
) -> list[SizeRecall]:
    """Recall at one score threshold, face size by face size.

    Args:
        truths: the labels that `matches` was made from.
        matches: the outcome of `match_detections`.
        score_threshold: detections below it do not count.
        edges_px: rising limits of the sizes (square root of the box's area, pixels).

    Returns:
        One entry for each pair of limits; recall is NaN where no face has the size.
    """
    sizes = np.concatenate([np.empty(0), *(np.sqrt(box_area(truth.boxes[~truth.ignore])) for truth in truths)])
    if len(sizes) != matches.faces:
        raise ValueError(f"{len(sizes)} labelled faces but matches of {matches.faces}: not the same photographs")
    found = matches.found >= score_threshold
    result = []
    for low, high in pairwise(edges_px):
        inside = (sizes >= low) & (sizes < high)
        recall = float(found[inside].mean()) if inside.any() else float("nan")
        result.append(SizeRecall(float(low), float(high), int(inside.sum()), recall))
    return result
