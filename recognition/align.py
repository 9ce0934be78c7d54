"""Alignment: from five landmarks to the 112x112 crop that the embedder and the mask head were trained on."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from facekd.geometry import apply_affine, estimate_similarity, invert_affine

CROP_SIZE = 112
"""Side of an aligned crop in pixels."""

TEMPLATE: npt.NDArray[np.float64] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where the ArcFace template (Deng et al. 2019) puts left eye, right eye, nose and the mouth corners in the crop."""
TEMPLATE.flags.writeable = False


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
    """The aligned crop of one face.

    Where the warp would shrink by more than half, whole blocks of pixels are averaged first: ``cv2.warpAffine`` knows
    no area filter, and bilinear sampling of every third pixel would alias. What lies beyond the picture is black.

    Args:
        image: RGB uint8 (H, W, 3).
        landmarks: (5, 2) in pixels of ``image``: left eye, right eye, nose, left and right mouth corner as seen.
        size: side of the crop in pixels.

    Returns:
        RGB uint8 (size, size, 3).

    Raises:
        ValueError: the landmarks are not five finite points that determine a similarity.
    """
    matrix = alignment_matrix(landmarks, size)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    part, matrix = _cut(image, matrix, int(1 / scale) if scale < 0.5 else 1, size)
    crop = cv2.warpAffine(part, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return np.asarray(crop, np.uint8)


def _cut(
    image: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], block: int, size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """The part of the picture that the crop sees, averaged over ``block`` x ``block`` pixels, and the matrix from it.

    Only that part is touched, so a face in a picture of 20 megapixels costs what the face costs, and pictures wider
    than the 32767 pixels that ``cv2.warpAffine`` takes are no matter.
    """
    height, width = image.shape[:2]
    block = min(block, max(height, width))
    corners = apply_affine(invert_affine(matrix), [[0, 0], [size, 0], [0, size], [size, size]])
    # Two blocks of margin: bilinear sampling looks one further, and the last may be cut short below.
    left, top = np.clip(np.floor(corners.min(0)) - 2 * block, 0, [width - 1, height - 1]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)) + 2 * block, [left + 1, top + 1], [width, height]).astype(int)
    part = np.ascontiguousarray(image[top:bottom, left:right])
    if block == 1:
        return part, np.column_stack([matrix[:, :2], matrix[:, :2] @ [left, top] + matrix[:, 2]])
    # A last block that the picture's edge cuts is filled up with black, which is what the warp sees beyond the edge.
    below, right_of = -part.shape[0] % block, -part.shape[1] % block
    filled = cv2.copyMakeBorder(part, 0, below, 0, right_of, cv2.BORDER_CONSTANT, value=0)
    small = cv2.resize(filled, (filled.shape[1] // block, filled.shape[0] // block), interpolation=cv2.INTER_AREA)
    # Pixel (u, v) of the small picture is centred at left + (u + 0.5) * block - 0.5 of the photograph.
    offset = np.array([left, top]) + (block - 1) / 2
    linear = matrix[:, :2]
    return np.asarray(small, np.uint8), np.column_stack([linear * block, linear @ offset + matrix[:, 2]])
