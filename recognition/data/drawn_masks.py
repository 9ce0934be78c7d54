"""Face masks drawn on aligned crops, for training only.

Shapes, colours and textures are drawn at random, on purpose unlike the one fixed drawing that masked LFW is judged
by (``facekd.evaluation``): what is judged must not be what was trained on.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# Left half of a mask's edge in the coordinates of the ArcFace template (112x112): from the nose's bridge along the
# cheek to under the chin. The right half mirrors it.
_LEFT_EDGE = np.array([[56, 62], [42, 66], [26, 72], [20, 84], [26, 98], [40, 110], [56, 113]], float)


def draw_random_mask(crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one mask of random outline, cloth and fit on a (112, 112, 3) crop; returns a new array."""
    size = crop.shape[0]
    half = _LEFT_EDGE + rng.normal(0.0, 1.8, _LEFT_EDGE.shape)
    half[:3, 1] += rng.uniform(-5.0, 6.0)  # worn higher or lower, but always over the nose's tip
    half[:, 0] = 56 + (half[:, 0] - 56) * rng.uniform(0.9, 1.12)
    other = half[::-1].copy()
    other[:, 0] = 112 - other[:, 0] + rng.normal(0.0, 1.0)
    outline = np.vstack([half, other]) * (size / 112.0)
    alpha = np.zeros((size, size), np.uint8)
    cv2.fillPoly(alpha, [np.round(outline).astype(np.int32)], 255, cv2.LINE_AA)
    if rng.random() < 0.6:
        for start, edge in ((outline[2], 0), (outline[-3], size - 1)):
            end = (edge, int(rng.uniform(0.4, 0.66) * size))
            cv2.line(alpha, (int(start[0]), int(start[1])), end, 255, int(rng.integers(1, 3)), cv2.LINE_AA)
    soft = cv2.GaussianBlur(alpha, (0, 0), float(rng.uniform(0.5, 1.4)))[..., None] / np.float32(255)
    mixed = crop * (1 - soft) + _cloth(crop, size, rng) * soft
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _cloth(crop: NDArray[np.uint8], size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(size, size, 3) float32 of one of four kinds of cloth, lit roughly as the face is."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    kind = rng.integers(0, 4)
    if kind == 0:  # surgical: pale, folded
        base = rng.uniform((120, 160, 180), (225, 235, 245))
        folds = 1.0 - 0.08 * (np.sin(y / rng.uniform(1.4, 3.0) + rng.uniform(0, 6)) > 0.6)
        cloth = base * folds[..., None]
    elif kind == 1:  # plain
        cloth = np.broadcast_to(rng.uniform(10, 245, 3), (size, size, 3))
    elif kind == 2:  # striped or waved
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 16)
        wave = 0.5 + 0.5 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period))
        first, second = rng.uniform(10, 245, (2, 3))
        cloth = first * wave[..., None] + second * (1 - wave[..., None])
    else:  # printed: smooth random blots
        blots = rng.uniform(0, 255, (int(rng.integers(3, 9)),) * 2 + (3,)).astype(np.float32)
        cloth = cv2.resize(blots, (size, size), interpolation=cv2.INTER_CUBIC)
    light = np.linspace(rng.uniform(0.95, 1.15), rng.uniform(0.65, 0.95), size, dtype=np.float32)[:, None, None]
    exposure = 0.5 + 0.5 * float(crop.mean()) / 127.5
    return (np.asarray(cloth, np.float32) * light * min(exposure, 1.2)).astype(np.float32)
