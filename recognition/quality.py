"""A first face quality: one score and the reasons that a person can act on.

Each aspect is measured with a unit and mapped to 0..1 by three knots ``(worthless, doubtful, good)``: 0, 0.5 and 1 with
straight lines between. Below one half the aspect's reason is given; the score is the product of all aspects. The knots
were set from geometry and from how the photographs of LFW and of UTKFace spread (figures at each); they are not fitted
to recognition errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from facekd.geometry import box_area, clip_boxes
from facekd.recognition.align import CROP_SIZE, TEMPLATE, alignment_matrix

REASONS: tuple[str, ...] = ("too-small", "blurred", "dark", "bright", "turned", "tilted")
"""Every reason there is, in the order in which they are given."""

Knots = tuple[float, float, float]

EYE_DISTANCE_PX: Knots = (6, 16, 35)
"""Distance of the eyes in the photograph, as if seen from the front. At 35 px the crop is not magnified; faces of less
than 36 px (16 px between the eyes) were kept out of the embedder's training."""
EYES_TO_BOX = 0.45
"""A tight box from ear to ear is about 1/0.45 eye distances wide; the smaller of both measures counts."""

SHARPNESS: Knots = (0.005, 0.02, 0.06)
"""Variance of the Laplacian over the variance of the grey values, in the middle of the crop. LFW: median 0.11, one in a
hundred under 0.032; blurred by a Gaussian of 1.5 crop pixels: median 0.020."""
MAGNIFIED_EXPONENT = 1.5
"""A sharp face that the crop magnifies ``s`` times has about ``s ** 1.5`` times less sharpness (LFW shrunk to a half
and to a quarter, then aligned); small is not blurred, so this is given back."""

HIGHLIGHTS: Knots = (30, 70, 90)
"""95th percentile of the grey values (0..255): the brightest parts of a face in too little light. Of UTKFace one in two
hundred of dark-skinned faces lies under 80 and none of the others at 70: it tells the exposure, not the skin."""
SATURATED_SHARE: Knots = (0.6, 0.25, 0.08)
"""Share of the face at 250 and over. UTKFace: one in a hundred over 0.05."""
CONTRAST: Knots = (5, 11, 16)
"""Standard deviation of the grey values (0..255). LFW and UTKFace: least 16; lower is fog, or exposure at an end."""

NOSE_OFFSET: Knots = (1.8, 0.9, 0.45)
"""Distance of the nose tip from the middle of the eyes, along the line of the eyes, in half eye distances. With a nose
tip 40 mm before eyes that are 64 mm apart this is ``1.25 * tan(yaw)``: 55, 36 and 20 degrees. LFW: one in fifty over
0.67."""
NOSE_HEIGHT_FRONTAL = 0.57
"""Where the nose tip lies from the eyes (0) to the mouth (1) in a face seen straight on: median of LFW."""
NOSE_HEIGHT_OFF: Knots = (0.45, 0.25, 0.12)
"""Difference from that; 0.25 is about 28 degrees up or down. LFW: one in a hundred over 0.11."""
ROLL_DEGREES: Knots = (90, 45, 25)
"""Angle of the line of the eyes. Alignment undoes it; what is left to doubt is the detection itself."""

VISIBLE_SHARE: Knots = (0.4, 0.65, 0.9)
"""Share of the box inside the picture; lowers the score, without a reason of its own."""

# The part of the crop that is skin in every pose, and free of hair and background: brow to chin, cheek to cheek.
_ROWS, _COLUMNS = slice(24, 104), slice(20, 92)


@dataclass(frozen=True, slots=True)
class Quality:
    """How fit a face is to be recognised.

    Attributes:
        score: 0..1, higher is better.
        reasons: what is wrong, from ``REASONS``; empty when nothing is.
    """

    score: float
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """``{"score", "reasons"}``, as the command line prints it."""
        return {"score": round(self.score, 4), "reasons": list(self.reasons)}


def face_quality(
    image: npt.NDArray[np.uint8], landmarks: npt.ArrayLike, box: npt.ArrayLike, crop: npt.NDArray[np.uint8]
) -> Quality:
    """Judge one face.

    Args:
        image: the photograph, RGB uint8 (H, W, 3).
        landmarks: (5, 2) in pixels of the photograph.
        box: (4,) ``x1, y1, x2, y2`` in pixels of the photograph.
        crop: the face aligned, RGB uint8 (112, 112, 3).

    Raises:
        ValueError: the landmarks determine no alignment, or the crop has another size or type.
    """
    if crop.shape != (CROP_SIZE, CROP_SIZE, 3) or crop.dtype != np.uint8:
        raise ValueError(f"need an aligned crop, uint8 ({CROP_SIZE}, {CROP_SIZE}, 3), got {crop.dtype} {crop.shape}")
    points, corners = np.asarray(landmarks, np.float64), np.asarray(box, np.float64).reshape(1, 4)
    matrix = alignment_matrix(points)
    magnified = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    eye_distance_px = float(np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])) / magnified
    width, height = corners[0, 2:] - corners[0, :2]
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[_ROWS, _COLUMNS].astype(np.float32)
    contrast, middle = float(grey.std()), float(grey.mean())
    sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var()) / max(contrast**2, 1.0)
    nose_offset, nose_height, roll_degrees = _pose(points)
    grey_flat = _grade(contrast, CONTRAST)
    grades = {
        "too-small": _grade(min(eye_distance_px, EYES_TO_BOX * float(min(width, height))), EYE_DISTANCE_PX),
        "blurred": _grade(sharpness * max(1.0, magnified) ** MAGNIFIED_EXPONENT, SHARPNESS),
        "dark": min(_grade(float(np.percentile(grey, 95)), HIGHLIGHTS), grey_flat if middle < 128 else 1.0),
        "bright": min(_grade(float((grey >= 250).mean()), SATURATED_SHARE), grey_flat if middle >= 128 else 1.0),
        "turned": _grade(abs(nose_offset), NOSE_OFFSET),
        "tilted": min(
            _grade(abs(nose_height - NOSE_HEIGHT_FRONTAL), NOSE_HEIGHT_OFF), _grade(abs(roll_degrees), ROLL_DEGREES)
        ),
    }
    area = float(box_area(corners)[0])
    visible = float(box_area(clip_boxes(corners, image.shape[1], image.shape[0]))[0]) / area if area > 0 else 0.0
    score = float(np.prod(list(grades.values()))) * _grade(visible, VISIBLE_SHARE)
    return Quality(score, tuple(reason for reason in REASONS if grades[reason] < 0.5))


def _pose(points: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Nose offset (half eye distances, positive to the right), nose height (eyes 0, mouth 1), roll (degrees)."""
    across = points[1] - points[0]
    distance = max(float(np.linalg.norm(across)), 1e-6)
    along = across / distance
    down = np.array([-along[1], along[0]])
    middle = (points[0] + points[1]) / 2
    mouth = float(((points[3] + points[4]) / 2 - middle) @ down)
    nose = points[2] - middle
    # A mouth that is not below the eyes is no upright face: as far off as can be.
    height = float(nose @ down) / mouth if mouth > 1e-6 else np.inf
    return float(nose @ along) / (distance / 2), height, float(np.degrees(np.arctan2(across[1], across[0])))


def _grade(value: float, knots: Knots) -> float:
    """0..1 through the knots (worthless, doubtful, good), which may rise or fall."""
    if knots[0] > knots[2]:
        value, knots = -value, (-knots[0], -knots[1], -knots[2])
    return float(np.interp(value, knots, (0.0, 0.5, 1.0)))
