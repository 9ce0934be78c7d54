"""What is done to an aligned crop before a student sees it. The teacher's answer is that for the untouched crop.

Every function takes and returns (H, W, 3) uint8 RGB and draws from the generator that it is handed.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from facekd.engine.settings import Fraction, Section
from facekd.recognition.data.drawn_masks import draw_random_mask
from facekd.recognition.data.drawn_sunglasses import draw_random_sunglasses

Crop = NDArray[Any]  # always uint8; OpenCV's annotations promise no type


class Augmentation(Section):
    """How often, and how strongly, crops are changed; shares are probabilities for one crop.

    Attributes:
        flip: mirrored left to right.
        shift: largest shift, as a share of the crop's side.
        zoom: largest relative change of scale.
        rotate_degrees: largest rotation.
        light: largest relative change of brightness and of contrast.
        grey: without colour.
        low_resolution: shrunk to between 16 and 48 pixels and enlarged again.
        blur: Gaussian or motion blur.
        jpeg: JPEG at quality 20 to 70.
        occlude: a rectangle of noise or flat colour over a part.
        mask: a drawn face mask.
        sunglasses: drawn over the eyes.
    """

    flip: Fraction = 0.5
    shift: Fraction = 0.03
    zoom: Fraction = 0.06
    rotate_degrees: float = Field(default=4.0, ge=0)
    light: Fraction = 0.2
    grey: Fraction = 0.04
    low_resolution: Fraction = 0.06
    blur: Fraction = 0.04
    jpeg: Fraction = 0.06
    occlude: Fraction = 0.04
    mask: Fraction = 0.08
    sunglasses: Fraction = 0.0


def augment(crop: Crop, size: int, settings: Augmentation, rng: np.random.Generator) -> Crop:
    """Change a (112, 112, 3) crop at random and bring it to ``size`` pixels: (size, size, 3) uint8."""
    chance = rng.random(8)
    if chance[0] < settings.mask:
        crop = draw_random_mask(crop, rng)
    if settings.sunglasses and rng.random() < settings.sunglasses:
        crop = draw_random_sunglasses(crop, rng)
    if chance[1] < settings.occlude:
        crop = _occlude(crop, rng)
    crop = _warp(crop, size, settings, chance[2] < settings.flip, rng)
    if settings.light:
        crop = _relight(crop, settings.light, rng)
    if chance[3] < settings.grey:
        crop = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if chance[4] < settings.low_resolution:
        side = int(rng.integers(16, 49)) * size // 112
        small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
        crop = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    if chance[5] < settings.blur:
        crop = _blur(crop, rng)
    if chance[6] < settings.jpeg:
        quality = int(rng.integers(20, 71))
        encoded = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        crop = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))  # channels swapped twice: still RGB
    return crop


def _warp(crop: Crop, size: int, settings: Augmentation, flip: bool, rng: np.random.Generator) -> Crop:
    """Flip, shift, zoom and turn about the centre, and resize, in one resampling."""
    source = crop.shape[0]
    scale = size / source * (1.0 + settings.zoom * rng.uniform(-1, 1))
    angle = np.deg2rad(settings.rotate_degrees * rng.uniform(-1, 1))
    shift = settings.shift * size * rng.uniform(-1, 1, 2)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    mirror = -1.0 if flip else 1.0
    linear = np.array([[cosine * mirror, -sine], [sine * mirror, cosine]])
    centre = (source - 1) / 2.0
    offset = np.full(2, (size - 1) / 2.0) + shift - linear @ np.full(2, centre)
    matrix = np.hstack([linear, offset[:, None]])
    interpolation = cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_CUBIC
    return cv2.warpAffine(crop, matrix, (size, size), flags=interpolation, borderMode=cv2.BORDER_REPLICATE)


def _relight(crop: Crop, strength: float, rng: np.random.Generator) -> Crop:
    """Contrast about the middle, brightness, and a slight tint, through one table per channel."""
    contrast = 1.0 + strength * rng.uniform(-1, 1)
    brightness = 127.5 * strength * rng.uniform(-1, 1)
    tint = 1.0 + 0.25 * strength * rng.uniform(-1, 1, 3)
    levels = (np.arange(256)[:, None] - 127.5) * contrast * tint + 127.5 + brightness
    table = np.clip(levels, 0, 255).astype(np.uint8)[None]
    return cv2.LUT(crop, table)


def _blur(crop: Crop, rng: np.random.Generator) -> Crop:
    if rng.random() < 0.5:
        return cv2.GaussianBlur(crop, (0, 0), float(rng.uniform(0.6, 2.0)))
    length = int(rng.integers(3, 8))
    kernel = np.zeros((length, length), np.float32)
    end = (int(rng.integers(0, length)), int(rng.integers(0, length)))
    cv2.line(kernel, (length - 1 - end[0], length - 1 - end[1]), end, 1.0)
    return cv2.filter2D(crop, -1, kernel / max(kernel.sum(), 1.0))


def _occlude(crop: Crop, rng: np.random.Generator) -> Crop:
    size = crop.shape[0]
    height, width = (rng.uniform(0.12, 0.4, 2) * size).astype(int)
    top, left = int(rng.integers(0, size - height + 1)), int(rng.integers(0, size - width + 1))
    covered = crop.copy()
    if rng.random() < 0.5:
        covered[top : top + height, left : left + width] = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    else:
        covered[top : top + height, left : left + width] = rng.integers(0, 256, 3, dtype=np.uint8)
    return covered
