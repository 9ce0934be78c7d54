"""Alignment: from five landmarks to the 112x112 crop that the embedder and the mask head were trained on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facekd.geometry import estimate_similarity
from facekd.warp import ARCFACE_TEMPLATE, warp_square

CROP_SIZE = 112
"""Side of an aligned crop in pixels."""

TEMPLATE = ARCFACE_TEMPLATE
"""Where the crop has left eye, right eye, nose and the mouth corners."""


def alignment_matrix(landmarks: npt.ArrayLike, size: int = CROP_SIZE) -> npt.NDArray[np.float64]:
    """The similarity (2, 3) from picture to crop pixels for five landmarks (5, 2), ``size`` pixels a side.

    Raises:
        ValueError: the landmarks are not five finite points that determine a similarity.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != TEMPLATE.shape:
        raise ValueError(f"alignment needs five landmarks of shape (5, 2), got {points.shape}")
    return estimate_similarity(points, TEMPLATE * (size / CROP_SIZE))


def align_face(image: npt.NDArray[np.uint8], landmarks: npt.ArrayLike, size: int = CROP_SIZE) -> npt.NDArray[np.uint8]:
    """The aligned crop of one face; what lies beyond the picture is black (see :func:`facekd.warp.warp_square`).

    Args:
        image: RGB uint8 (H, W, 3).
        landmarks: (5, 2) in pixels of ``image``: left eye, right eye, nose, left and right mouth corner as seen.
        size: side of the crop in pixels.

    Returns:
        RGB uint8 (size, size, 3).

    Raises:
        ImageError: the picture is not RGB uint8.
        ValueError: the landmarks are not five finite points that determine a similarity.
    """
    return warp_square(image, alignment_matrix(landmarks, size), size)
