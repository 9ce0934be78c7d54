"""Crops composed of two people's: one's eyes over the other's mask, worn as it should be, too low, or not at all.

Masks worn incorrectly are rare in photographs, and what decides is where the mask's upper edge lies. Aligned crops
share one geometry, so a real mask can be put lower on a real face. Seams would give the answer away if only one class
had them: the others are composed the same way. For training only.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.recognition.data.light import in_light_of

CROP = 112
_BRIDGE, _CHEEK = (
    62.0,
    70.0,
)  # rows of a well-worn mask's upper edge in the ArcFace template: at the nose, at the cheeks
_SKIN = (slice(25, 58), slice(26, 86))  # eyes and brows: seen whether or not a mask is worn


def compose(
    above: NDArray[np.uint8], below: NDArray[np.uint8], lowered: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Put the lower part of one crop, moved down, under the upper part of another.

    Args:
        above: (112, 112, 3) the face whose eyes, and whatever the seam leaves, are seen.
        below: (112, 112, 3) the face whose lower part is taken from a well-worn mask's upper edge on.
        lowered: pixels by which that part is moved down; 0 leaves it where it was.
        rng: draws the seam's form and softness, and how far the light of both is made alike.

    Returns:
        (112, 112, 3) uint8.
    """
    match = rng.uniform(0.5, 1.0)
    under = below.astype(np.float32)
    under = under + match * (in_light_of(under, above, _SKIN) - under)
    x, y = np.meshgrid(np.arange(CROP, dtype=np.float32), np.arange(CROP, dtype=np.float32))
    side = np.abs(x - CROP / 2 + rng.uniform(-3, 3)) / (CROP / 2)
    edge = _BRIDGE + rng.uniform(0.0, 4.0) + (_CHEEK - _BRIDGE) * rng.uniform(0.3, 1.3) * side + lowered
    slope = rng.uniform(-0.06, 0.06)
    edge = edge + slope * (x - CROP / 2)
    stretch = rng.uniform(0.92, 1.08)
    moved = cv2.warpAffine(
        under,
        np.array([[stretch, 0.0, CROP / 2 * (1 - stretch)], [slope, 1.0, lowered - slope * CROP / 2]]),
        (CROP, CROP),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    soft = np.clip((y - edge) / rng.uniform(1.0, 4.0) + 0.5, 0.0, 1.0)
    # What lies beside the face below is background: leave the other's.
    soft *= np.clip((rng.uniform(38.0, 48.0) - np.abs(x - CROP / 2)) / rng.uniform(2.0, 6.0) + 0.5, 0.0, 1.0)
    return np.clip(above * (1 - soft[..., None]) + moved * soft[..., None], 0, 255).astype(np.uint8)


def compose_incorrect(
    face: NDArray[np.uint8], masked: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A real mask under the nose, or under the mouth, of somebody without one; (112, 112, 3) uint8."""
    lowered = rng.uniform(12.0, 24.0) if rng.random() < 0.55 else rng.uniform(24.0, 38.0)
    return compose(face, masked, lowered, rng)


def compose_correct(face: NDArray[np.uint8], masked: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Somebody else's mask where it belongs: the same seams, another answer; (112, 112, 3) uint8."""
    return compose(face, masked, rng.uniform(-3.0, 2.0), rng)


def compose_none(face: NDArray[np.uint8], other: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Two faces without masks joined anywhere below the eyes; (112, 112, 3) uint8."""
    return compose(face, other, rng.uniform(0.0, 38.0), rng)
