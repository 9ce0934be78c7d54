"""Landmark error: the mean distance of five points, by the distance of the eye centres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.geometry import box_iou

Floats = NDArray[np.floating[Any]]
LEFT_EYE, RIGHT_EYE = 0, 1


def normalised_mean_error(predicted: Floats, truth: Floats) -> Floats:
    """Mean distance of corresponding points over the distance of the true eye centres.

    The inter-pupil error of Sagonas et al. 2013, "300 Faces in-the-Wild Challenge", for five points.

    Args:
        predicted, truth: (N, 5, 2) pixels; left eye, right eye, nose, left and right mouth corner.

    Returns:
        (N,) errors, 0 is perfect and 0.1 is a tenth of the distance of the eyes.

    Raises:
        ValueError: the shapes differ or are not (N, 5, 2).
    """
    if predicted.shape != truth.shape or predicted.shape[1:] != (5, 2):
        raise ValueError(f"landmarks of shape {predicted.shape} and {truth.shape}: wanted (N, 5, 2) both")
    eyes = np.linalg.norm(truth[:, RIGHT_EYE] - truth[:, LEFT_EYE], axis=1)
    return np.linalg.norm(predicted - truth, axis=2).mean(axis=1) / np.maximum(eyes, 1e-6)


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkErrors:
    """Errors of the faces of one photograph, or of many.

    Attributes:
        errors: (K,) normalised mean errors of the faces found.
        missed: faces with true landmarks that no detection overlaps enough.
    """

    errors: NDArray[np.float64]
    missed: int

    @property
    def mean(self) -> float:
        """Mean error of the faces found; NaN if there is none."""
        return float(self.errors.mean()) if len(self.errors) else float("nan")


def landmark_errors(
    truth_boxes: Floats,
    truth_landmarks: Floats,
    boxes: Floats,
    landmarks: Floats,
    iou_threshold: float = 0.5,
) -> LandmarkErrors:
    """Compare each labelled face of a photograph with the detection that overlaps it most.

    Args:
        truth_boxes: (N, 4) xyxy.
        truth_landmarks: (N, 5, 2), NaN where unknown: such faces are passed over.
        boxes: (M, 4) xyxy of the detections.
        landmarks: (M, 5, 2) of the detections.
        iou_threshold: least overlap for a face to count as found.
    """
    known = ~np.isnan(truth_landmarks).any(axis=(1, 2))
    if not known.any():
        return LandmarkErrors(np.empty(0), 0)
    if not len(boxes):
        return LandmarkErrors(np.empty(0), int(known.sum()))
    overlaps = box_iou(truth_boxes[known], boxes)
    best = overlaps.argmax(axis=1)
    found = overlaps.max(axis=1) >= iou_threshold
    errors = normalised_mean_error(
        landmarks[best[found]].astype(np.float64), truth_landmarks[known][found].astype(np.float64)
    )
    return LandmarkErrors(np.asarray(errors, np.float64), int((~found).sum()))


def joined_errors(parts: list[LandmarkErrors]) -> LandmarkErrors:
    """The errors of several photographs together."""
    return LandmarkErrors(np.concatenate([np.empty(0), *(p.errors for p in parts)]), sum(p.missed for p in parts))
