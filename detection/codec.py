"""Coding of boxes and landmarks relative to anchors, and back (SSD, Liu et al. 2016, section 2.2; variances 0.1, 0.2).

Arrays may carry leading batch axes; anchors ``cx, cy, w, h`` broadcast against them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

VARIANCES: tuple[float, float] = (0.1, 0.2)
"""What codes of centres (and landmarks) and of logarithmic sides are divided by."""

MAX_LOG_SIDE = float(np.log(64.0))
"""A decoded side is at most 64 times its anchor: an untrained or damaged network must not produce infinities."""

FloatArray = npt.NDArray[np.floating]


def encode_boxes(boxes: npt.ArrayLike, anchors: npt.NDArray[np.float32]) -> FloatArray:
    """Codes (..., 4) of boxes ``x1, y1, x2, y2`` (..., 4) relative to anchors (..., 4).

    Raises:
        ValueError: a box has no area, and so no logarithm of a side.
    """
    corners = _as_float(boxes)
    sides = corners[..., 2:] - corners[..., :2]
    if not (sides > 0).all():
        raise ValueError("every box to encode needs x2 > x1 and y2 > y1; leave empty boxes out")
    centres = (corners[..., :2] + corners[..., 2:]) / 2
    shift = (centres - anchors[..., :2]) / (VARIANCES[0] * anchors[..., 2:])
    return np.concatenate([shift, np.log(sides / anchors[..., 2:]) / VARIANCES[1]], axis=-1)


def decode_boxes(codes: npt.ArrayLike, anchors: npt.NDArray[np.float32]) -> FloatArray:
    """Boxes ``x1, y1, x2, y2`` (..., 4) from their codes (..., 4): the inverse of :func:`encode_boxes`.

    Sides stop at 64 times the anchor's (``MAX_LOG_SIDE``).
    """
    values = _as_float(codes)
    centres = anchors[..., :2] + values[..., :2] * VARIANCES[0] * anchors[..., 2:]
    halves = anchors[..., 2:] * np.exp(np.minimum(values[..., 2:] * VARIANCES[1], MAX_LOG_SIDE)) / 2
    return np.concatenate([centres - halves, centres + halves], axis=-1)


def encode_landmarks(points: npt.ArrayLike, anchors: npt.NDArray[np.float32]) -> FloatArray:
    """Codes (..., 10) of five points (..., 5, 2): ``(p - c) / (0.1 * side)``, x and y in turn."""
    values = _as_float(points)
    codes = (values - anchors[..., None, :2]) / (VARIANCES[0] * anchors[..., None, 2:])
    return codes.reshape(*codes.shape[:-2], 10)


def decode_landmarks(codes: npt.ArrayLike, anchors: npt.NDArray[np.float32]) -> FloatArray:
    """Five points (..., 5, 2) from their codes (..., 10): the inverse of :func:`encode_landmarks`."""
    values = _as_float(codes)
    points = values.reshape(*values.shape[:-1], 5, 2)
    return anchors[..., None, :2] + points * VARIANCES[0] * anchors[..., None, 2:]


def _as_float(values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float32)
