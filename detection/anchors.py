"""The anchors of the detector: the fixed squares that every score, box code and landmark code refers to.

RetinaFace (Deng et al. 2019) in the form of its common MobileNet-0.25 port: strides 8, 16 and 32, two squares a cell.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

STRIDES: tuple[int, ...] = (8, 16, 32)
"""Pixels between neighbouring cells of each feature map, finest first."""

SIDES: tuple[tuple[int, ...], ...] = ((16, 32), (64, 128), (256, 512))
"""Sides of the square anchors, in pixels of the network's input, for each stride, in rising order."""


# A few shapes recur (tiles, one camera's frames); a folder of photographs of many sizes must not keep them all.
@lru_cache(maxsize=16)
def anchors(height: int, width: int) -> npt.NDArray[np.float32]:
    """Anchors of an input of ``height`` x ``width`` pixels.

    The order is that of the exported graph's outputs: strides 8, 16, 32; in each its cells row by row; in each cell
    the sides in rising order. A feature map has ``ceil(size / stride)`` cells a side, centred ``(i + 0.5) * stride``.

    Returns:
        (A, 4) float32, ``cx, cy, w, h`` in pixels; read-only, since calls share it.

    Raises:
        ValueError: a side is not positive.
    """
    if height < 1 or width < 1:
        raise ValueError(f"the input must have positive sides, got {height} x {width}")
    levels = []
    for stride, sides in zip(STRIDES, SIDES, strict=True):
        rows, columns = -(-height // stride), -(-width // stride)
        level = np.empty((rows, columns, len(sides), 4), np.float32)
        level[..., 0] = ((np.arange(columns) + 0.5) * stride)[None, :, None]
        level[..., 1] = ((np.arange(rows) + 0.5) * stride)[:, None, None]
        level[..., 2] = level[..., 3] = np.asarray(sides, np.float32)
        levels.append(level.reshape(-1, 4))
    result = np.concatenate(levels)
    result.flags.writeable = False
    return result
