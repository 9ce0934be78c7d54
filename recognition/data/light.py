"""The light of a crop brought to that of another, so that a part of one does not stand out in the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Area = tuple[slice, slice]


def in_light_of(crop: NDArray[Any], other: NDArray[np.uint8], area: Area) -> NDArray[np.float32]:
    """A crop with each channel's mean and spread in an area brought to those of another crop.

    Args:
        crop: (H, W, 3), what is changed.
        other: (H, W, 3), whose light it gets.
        area: rows and columns to compare in; all of the crop is changed.

    Returns:
        (H, W, 3) float32, not clipped.
    """
    wanted, given = (picture[area].reshape(-1, 3).astype(np.float32) for picture in (other, crop))
    gain = np.clip((wanted.std(0) + 8.0) / (given.std(0) + 8.0), 0.6, 1.6)
    return (crop - given.mean(0)) * gain + wanted.mean(0)
