"""Square crops of photographs with their faces: where to cut, what to keep, flips, zoom-out and mosaics."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from facekd.detection.data.photographs import Photograph
from facekd.engine.settings import Fraction, Section

MIRRORED = np.array([1, 0, 2, 4, 3])  # landmarks change sides with the picture
WINDOW_SHARES = (0.3, 0.45, 0.6, 0.8, 1.0)  # of the shorter side: RetinaFace, section 4.2, and its ports


class CropSettings(Section):
    """How crops are cut.

    Attributes:
        around_face: share of crops whose scale is chosen so that one drawn face gets a drawn size (data-anchor
            sampling, Li et al. 2019, https://arxiv.org/abs/1810.10220); the rest are RetinaFace's random squares.
        smallest_face: lower end of those sizes, in pixels of the crop.
        largest_face: upper end, as a share of the crop's side.
        largest_zoom: crops are enlarged no further than this: an enlarged small face is only blur.
        zoom_out: share of the random squares that are larger than the photograph.
        largest_zoom_out: the largest such square, in longer sides of the photograph.
        mosaic: share of crops that are put together from four.
        flip: share of mirrored crops.
        ignore_below: faces smaller than this (square root of the area, in pixels of the crop) become ignore regions.
    """

    around_face: Fraction = 0.6
    smallest_face: float = Field(default=10.0, gt=0)
    largest_face: float = Field(default=0.9, gt=0)
    largest_zoom: float = Field(default=2.5, gt=0)
    zoom_out: Fraction = 0.25
    largest_zoom_out: float = Field(default=2.0, ge=1)
    mosaic: Fraction = 0.15
    flip: Fraction = 0.5
    ignore_below: float = Field(default=7.0, ge=0)


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A square piece of a photograph with what is known of it.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        boxes: (N, 4) float32, ``x1, y1, x2, y2`` in pixels of the crop, inside it.
        landmarks: (N, 5, 2) float32, NaN where unknown; may lie outside.
        ignore: (N,) bool.
        landmark_weights: (N,) float32.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    ignore: NDArray[np.bool_]
    landmark_weights: NDArray[np.float32]


def draw_crop(photograph: Photograph, size: int, settings: CropSettings, rng: np.random.Generator) -> Crop:
    """A random crop of a photograph, mirrored or not.

    Args:
        photograph: what to cut from.
        size: side of the crop in pixels.
        settings: how to draw.
        rng: all randomness.
    """
    x, y, side = draw_window(photograph, size, settings, rng)
    crop = cut_window(photograph, x, y, side, size, settings.ignore_below, fill=int(rng.integers(0, 256)))
    return mirror(crop) if rng.random() < settings.flip else crop


def draw_window(
    photograph: Photograph, size: int, settings: CropSettings, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Left, top and side of a random square window, in pixels of the photograph; it may reach beyond it."""
    width, height = photograph.width, photograph.height
    faces = photograph.boxes[~photograph.ignore]
    least_side = size / settings.largest_zoom
    if len(faces) and rng.random() < settings.around_face:
        x1, y1, x2, y2 = (float(value) for value in faces[rng.integers(len(faces))])
        low, high = np.log(settings.smallest_face), np.log(settings.largest_face * size)
        wanted = float(np.exp(rng.uniform(low, high)))
        side = size * float(np.sqrt((x2 - x1) * (y2 - y1))) / wanted
        side = float(np.clip(side, least_side, settings.largest_zoom_out * max(width, height)))
        # The face lies wholly inside wherever it fits; else its centre does.
        x = rng.uniform(x2 - side, x1) if side > x2 - x1 else rng.uniform((x1 + x2) / 2 - side, (x1 + x2) / 2)
        y = rng.uniform(y2 - side, y1) if side > y2 - y1 else rng.uniform((y1 + y2) / 2 - side, (y1 + y2) / 2)
        return _inside(x, side, width), _inside(y, side, height), side
    if rng.random() < settings.zoom_out:
        side = max(width, height) * rng.uniform(1.0, settings.largest_zoom_out)
    else:
        side = max(min(width, height) * float(rng.choice(WINDOW_SHARES)), least_side)
    x = rng.uniform(min(0.0, width - side), max(0.0, width - side))
    y = rng.uniform(min(0.0, height - side), max(0.0, height - side))
    return x, y, side


def _inside(start: float, side: float, length: int) -> float:
    """Shift a window so that none of it is wasted on the outside, or, if it is larger, none of the photograph."""
    return float(np.clip(start, min(0.0, length - side), max(0.0, length - side)))


def cut_window(
    photograph: Photograph, x: float, y: float, side: float, size: int, ignore_below: float = 0.0, fill: int = 127
) -> Crop:
    """Cut a square window and scale it to ``size`` pixels.

    A face stays when its centre lies in the window (its box is clipped to it); one whose centre lies outside, or that
    is smaller than ``ignore_below`` pixels in the crop, becomes an ignore region.

    Args:
        photograph: what to cut from.
        x, y, side: left, top and side of the window in pixels of the photograph; may reach beyond it.
        size: side of the crop in pixels.
        ignore_below: see above; square root of the area, in pixels of the crop.
        fill: grey value of what lies outside the photograph.
    """
    level = min(max(int(np.log2(max(side / size, 1.0))), 0), len(photograph.levels) - 1)
    planes = photograph.levels[level]
    # Chroma has half the resolution: windows are cut at even pixels of the level; labels follow exactly.
    grid = 2 << level
    left, top = grid * round(x / grid), grid * round(y / grid)
    length = max(grid * round(side / grid), 2 * grid)
    factor = size / length
    x1, y1 = max(left, 0), max(top, 0)
    x2 = min(left + length, planes.luma.shape[1] << level)
    y2 = min(top + length, planes.luma.shape[0] << level)
    pixels = np.full((size, size, 3), fill, np.uint8)
    if x2 > x1 and y2 > y1:
        part = planes.window(x1 >> level, y1 >> level, x2 >> level, y2 >> level)
        u1, v1 = round((x1 - left) * factor), round((y1 - top) * factor)
        u2, v2 = max(round((x2 - left) * factor), u1 + 1), max(round((y2 - top) * factor), v1 + 1)
        # At most a halving is left to do, for which linear interpolation is sharp and four times as fast as areas.
        piece = cv2.resize(part, (u2 - u1, v2 - v1), interpolation=cv2.INTER_LINEAR)
        pixels[v1:v2, u1:u2] = piece[: size - v1, : size - u1]

    offset = np.array([left, top], np.float32)
    boxes = (photograph.boxes - np.tile(offset, 2)) * np.float32(factor)
    landmarks = (photograph.landmarks - offset) * np.float32(factor)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    central = ((centres > 0) & (centres < size)).all(axis=1)
    clipped = boxes.clip(0, size)
    extent = clipped[:, 2:] - clipped[:, :2]
    touching = (extent > 0).all(axis=1)
    small = np.sqrt(extent.clip(0).prod(axis=1)) < ignore_below
    weights = np.full(len(boxes), photograph.landmark_weight, np.float32)
    return Crop(
        pixels,
        clipped[touching],
        landmarks[touching],
        (photograph.ignore | ~central | small)[touching],
        weights[touching],
    )


def mirror(crop: Crop) -> Crop:
    """The crop seen in a mirror; left and right landmarks change places."""
    size = np.float32(crop.pixels.shape[1])
    boxes = crop.boxes.copy()
    boxes[:, [0, 2]] = size - crop.boxes[:, [2, 0]]
    landmarks = crop.landmarks[:, MIRRORED].copy()
    landmarks[..., 0] = size - landmarks[..., 0]
    return Crop(np.ascontiguousarray(crop.pixels[:, ::-1]), boxes, landmarks, crop.ignore, crop.landmark_weights)


def join_mosaic(crops: list[Crop]) -> Crop:
    """Four crops of equal side, row by row, as one of twice the side."""
    side = crops[0].pixels.shape[0]
    shifts = np.array([[0, 0], [side, 0], [0, side], [side, side]], np.float32)
    rows = [np.concatenate([crops[i].pixels, crops[i + 1].pixels], axis=1) for i in (0, 2)]
    return Crop(
        np.concatenate(rows, axis=0),
        np.concatenate([crop.boxes + np.tile(shift, 2) for crop, shift in zip(crops, shifts, strict=True)]),
        np.concatenate([crop.landmarks + shift for crop, shift in zip(crops, shifts, strict=True)]),
        np.concatenate([crop.ignore for crop in crops]),
        np.concatenate([crop.landmark_weights for crop in crops]),
    )
