"""Square crops of a photograph through a similarity: the picture part of every alignment, and the common template."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from facekd.errors import ImageError
from facekd.geometry import apply_affine, invert_affine

ARCFACE_TEMPLATE: npt.NDArray[np.float64] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Left eye, right eye, nose and mouth corners in a crop of 112x112 pixels (Deng et al. 2019, ArcFace)."""
ARCFACE_TEMPLATE.flags.writeable = False


def warp_square(image: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.uint8]:
    """The square that a similarity cuts out of a photograph.

    Where the warp would shrink by more than half, whole blocks of pixels are averaged first: ``cv2.warpAffine`` knows
    no area filter, and bilinear sampling of every third pixel would alias. What lies beyond the picture is black.

    Args:
        image: RGB uint8 (H, W, 3).
        matrix: (2, 3), from pixels of ``image`` to pixels of the square.
        size: side of the square in pixels.

    Returns:
        RGB uint8 (size, size, 3).

    Raises:
        ImageError: it is another kind of picture. Floats of 0..1 would become a black square, which looks like every
            other black square.
    """
    if getattr(image, "dtype", None) != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"need RGB uint8 (H, W, 3), got {kind}; facekd.load_image makes that of any picture")
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    part, matrix = _cut(image, matrix, int(1 / scale) if scale < 0.5 else 1, size)
    square = cv2.warpAffine(part, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return np.asarray(square, np.uint8)


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
