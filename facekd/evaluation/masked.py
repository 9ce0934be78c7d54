"""The mask that masked LFW draws on an aligned crop: one fixed drawing, so that figures can be compared.

The outline is in the coordinates of the ArcFace template (112x112): over the nose's bridge, down the cheeks, under the
chin. For evaluation only; training draws its own masks, with other shapes and textures.
"""

from __future__ import annotations

import zlib
from pathlib import PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE_PX = 112
# Clockwise from the left cheek: bridge of the nose, right cheek, chin.
OUTLINE = (
    (20, 68),
    (38, 63),
    (56, 58),
    (74, 63),
    (92, 68),
    (93, 84),
    (86, 101),
    (72, 112),
    (40, 112),
    (26, 101),
    (19, 84),
)
STRAPS = (((20, 70), (4, 60)), ((92, 70), (108, 60)))
SURGICAL, WHITE, BLACK, CLOTH = range(4)
COLOURS = ((142, 190, 214), (232, 232, 228), (38, 38, 42), (150, 60, 70))


def mask_kind(file_name: str) -> int:
    """Which mask a photograph wears, 0 to 3: the CRC-32 of its file name (the last part of a path) modulo 4."""
    return zlib.crc32(PurePosixPath(file_name).name.encode()) % len(COLOURS)


def draw_mask(crop: NDArray[np.uint8], kind: int) -> NDArray[np.uint8]:
    """Draw a mask on an aligned crop.

    Args:
        crop: (112, 112, 3) RGB uint8, aligned to the ArcFace template.
        kind: 0 surgical blue, 1 white, 2 black, 3 patterned cloth.

    Returns:
        A new (112, 112, 3) RGB uint8 picture.

    Raises:
        ValueError: the crop has another shape, or there is no such kind.
    """
    if crop.shape != (SIDE_PX, SIDE_PX, 3):
        raise ValueError(f"crop has shape {crop.shape}; the mask fits ({SIDE_PX}, {SIDE_PX}, 3) only")
    if not 0 <= kind < len(COLOURS):
        raise ValueError(f"mask kind is {kind}; wanted 0 to {len(COLOURS) - 1}")
    darker_towards_the_chin = np.linspace(1.06, 0.82, SIDE_PX)[:, None, None]
    fabric = np.ones((SIDE_PX, SIDE_PX, 3)) * COLOURS[kind] * darker_towards_the_chin
    if kind == SURGICAL:
        for fold in (76, 85, 94):
            fabric[fold : fold + 2] *= 0.9
    if kind == CLOTH:
        rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
        fabric[(rows // 6 + columns // 6) % 2 == 0] *= 0.7
    cover = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    cv2.fillPoly(cover, [np.array(OUTLINE, np.int32)], (255,), cv2.LINE_AA)
    for start, end in STRAPS:
        cv2.line(cover, start, end, (255,), 2, cv2.LINE_AA)
    alpha = cv2.GaussianBlur(cover, (3, 3), 0)[..., None] / 255.0
    return np.asarray(np.clip(crop * (1 - alpha) + fabric * alpha, 0, 255).round(), np.uint8)
