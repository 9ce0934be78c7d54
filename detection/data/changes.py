"""Changes of light, sharpness and cover that leave the faces where they are."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.detection.data.crops import Crop
from facekd.engine.settings import Fraction, Section


class ChangeSettings(Section):
    """How often crops are changed, each as a share of the crops (covers: of the faces).

    Attributes:
        light: brightness, contrast, gamma and colour cast; low light is its darker end.
        saturation: stronger or weaker colours.
        grey: no colours at all.
        blur: out of focus, or moving.
        noise: Gaussian noise, the same in all colours.
        compression: JPEG at quality 25 to 80.
        mask: a polygon over mouth and nose, like a face mask, on faces whose landmarks are known.
        cover: a rectangle over a quarter to a half of a face.
    """

    light: Fraction = 0.7
    saturation: Fraction = 0.4
    grey: Fraction = 0.1
    blur: Fraction = 0.07
    noise: Fraction = 0.07
    compression: Fraction = 0.1
    mask: Fraction = 0.1
    cover: Fraction = 0.05


def change(crop: Crop, settings: ChangeSettings, rng: np.random.Generator) -> Crop:
    """Draw and apply the changes. The labels stay as they are; only the pixels differ."""
    pixels = crop.pixels.copy()
    for box, points, ignore in zip(crop.boxes, crop.landmarks, crop.ignore, strict=True):
        if ignore or min(box[2] - box[0], box[3] - box[1]) < 20:
            continue  # on smaller faces a cover is noise at best
        if rng.random() < settings.mask and np.isfinite(points).all():
            put_mask(pixels, box, points, rng)
        elif rng.random() < settings.cover:
            put_cover(pixels, box, rng)
    if rng.random() < settings.light:
        pixels = np.asarray(cv2.LUT(pixels, draw_light(rng)), np.uint8)
    if rng.random() < settings.grey:
        pixels = _mix_with_grey(pixels, 0.0)
    elif rng.random() < settings.saturation:
        pixels = _mix_with_grey(pixels, rng.uniform(0.4, 1.6))
    if rng.random() < settings.blur:
        pixels = _blur(pixels, rng)
    if rng.random() < settings.noise:
        noise = rng.standard_normal((*pixels.shape[:2], 1), np.float32) * np.float32(rng.uniform(2.0, 14.0))
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    if rng.random() < settings.compression:
        quality = int(rng.integers(25, 80))
        written, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if written:
            pixels = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return Crop(pixels, crop.boxes, crop.landmarks, crop.ignore, crop.landmark_weights)


def draw_light(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random table (1, 256, 3) from old to new value: gamma, contrast, brightness, and a cast a channel."""
    values = np.linspace(0.0, 1.0, 256, dtype=np.float32) ** np.exp(rng.normal(0.0, 0.3))
    contrast, brightness = rng.uniform(0.65, 1.35), rng.uniform(-0.15, 0.15)
    values = (values - 0.5) * contrast + 0.5 + brightness
    if rng.random() < 0.15:
        values = values * rng.uniform(0.25, 0.7)
    table = values[None, :, None] * rng.uniform(0.88, 1.12, 3).astype(np.float32)
    return np.clip(table * 255.0, 0, 255).astype(np.uint8)


def put_mask(
    pixels: NDArray[np.uint8], box: NDArray[np.float32], points: NDArray[np.float32], rng: np.random.Generator
) -> None:
    """Paint a mask in place: from the bridge of the nose, along both cheeks, to the chin."""
    left_eye, right_eye, nose, left_mouth, right_mouth = points
    across = right_eye - left_eye
    eyes = (left_eye + right_eye) / 2
    mouth = (left_mouth + right_mouth) / 2
    down = mouth - eyes
    top = eyes + (nose - eyes) * rng.uniform(0.3, 0.9)
    chin = mouth + down * rng.uniform(0.4, 0.75)
    polygon = np.stack(
        [
            top,
            right_mouth - down * 0.45 + across * rng.uniform(0.25, 0.45),
            right_mouth + down * 0.2 + across * rng.uniform(0.15, 0.35),
            chin + across * 0.25,
            chin - across * 0.25,
            left_mouth + down * 0.2 - across * rng.uniform(0.15, 0.35),
            left_mouth - down * 0.45 - across * rng.uniform(0.25, 0.45),
        ]
    )
    polygon = polygon.clip(box[:2] - 2, box[2:] + 2)
    kind = rng.random()
    if kind < 0.4:  # surgical blue
        colour = np.array([150, 190, 215]) + rng.integers(-30, 30, 3)
    elif kind < 0.7:  # black, white, grey
        colour = np.full(3, rng.integers(10, 250))
    else:
        colour = rng.integers(0, 256, 3)
    cv2.fillPoly(pixels, [polygon.round().astype(np.int32)], [int(value) for value in colour.clip(0, 255)])


def put_cover(pixels: NDArray[np.uint8], box: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Paint a rectangle in place over a side of the face: one colour, or a piece of the picture from elsewhere."""
    size = pixels.shape[0]
    extent = box[2:] - box[:2]
    share = rng.uniform(0.25, 0.5)
    part = extent * (np.array([share, 1.0]) if rng.random() < 0.5 else np.array([1.0, share]))
    corner = box[:2] + (extent - part) * rng.integers(0, 2, 2)
    x1, y1 = corner.clip(0, size).astype(int)
    x2, y2 = (corner + part).clip(0, size).astype(int)
    if x2 <= x1 or y2 <= y1:
        return
    if rng.random() < 0.5:
        pixels[y1:y2, x1:x2] = rng.integers(0, 256, 3)
    else:
        x, y = rng.integers(0, size - (x2 - x1) + 1), rng.integers(0, size - (y2 - y1) + 1)
        pixels[y1:y2, x1:x2] = pixels[y : y + y2 - y1, x : x + x2 - x1].copy()


def _mix_with_grey(pixels: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(pixels, share, grey, 1.0 - share, 0.0), np.uint8)


def _blur(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    if rng.random() < 0.5:
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.6, 1.8)), np.uint8)
    length = int(rng.integers(3, 8))
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0.0, np.pi)
    middle = (length - 1) / 2
    reach = np.array([np.cos(angle), np.sin(angle)]) * middle
    ends = [tuple(round(float(value)) for value in middle + sign * reach) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return np.asarray(cv2.filter2D(pixels, -1, kernel / kernel.sum()), np.uint8)
