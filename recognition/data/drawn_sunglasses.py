"""Sunglasses drawn on aligned crops, for training only: after masks, what covers faces most often."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.recognition.align import CROP_SIZE, TEMPLATE

LEFT_EYE, RIGHT_EYE = TEMPLATE[0], TEMPLATE[1]


def draw_random_sunglasses(crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw glasses of random size, shape, colour and darkness on a (112, 112, 3) crop; returns a new array."""
    unit = crop.shape[0] / CROP_SIZE
    half_width, half_height = rng.uniform(11.0, 16.0), rng.uniform(7.0, 12.0)
    drop, tilt = rng.uniform(-2.0, 4.0), rng.uniform(-1.5, 1.5)
    square = rng.uniform(0.0, 1.0)  # 0: ellipses, 1: almost rectangles
    glass, frame = np.zeros(crop.shape[:2], np.uint8), np.zeros(crop.shape[:2], np.uint8)
    middles = [LEFT_EYE + np.array([0.0, drop - tilt]), RIGHT_EYE + np.array([0.0, drop + tilt])]
    thick = max(round(rng.uniform(1.0, 2.6) * unit), 1)
    for middle in middles:
        angles = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
        round_ = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        # A superellipse: the higher the power, the squarer.
        outline = np.sign(round_) * np.abs(round_) ** (1.0 / (1.0 + 1.5 * square)) * (half_width, half_height) + middle
        points = np.round(outline * unit).astype(np.int32)
        cv2.fillPoly(glass, [points], (255,), cv2.LINE_AA)
        cv2.polylines(frame, [points], True, (255,), thick, cv2.LINE_AA)
    inner = [middles[0] + np.array([half_width, -2.0]), middles[1] - np.array([half_width, 2.0])]
    outer = [(middles[0] - np.array([half_width, 2.0]), (-2.0, middles[0][1] - rng.uniform(-2, 8)))]
    outer.append((middles[1] + np.array([half_width, -2.0]), (CROP_SIZE + 2.0, middles[1][1] - rng.uniform(-2, 8))))
    for start, end in [(inner[0], inner[1]), *outer]:
        first, last = (np.round(np.asarray(point) * unit).astype(int).tolist() for point in (start, end))
        cv2.line(frame, first, last, (255,), thick, cv2.LINE_AA)
    opaque = rng.uniform(0.6, 1.0) * (glass[..., None] / np.float32(255))
    shade = np.linspace(rng.uniform(0.7, 1.3), rng.uniform(0.7, 1.3), crop.shape[0], dtype=np.float32)[:, None, None]
    mixed = crop * (1 - opaque) + rng.uniform(0, 70, 3).astype(np.float32) * shade * opaque
    rim = frame[..., None] / np.float32(255)
    mixed = mixed * (1 - rim) + rng.uniform(0, 160, 3).astype(np.float32) * rim
    return np.clip(mixed, 0, 255).astype(np.uint8)
