"""Boxes, landmarks and labels drawn on a copy of a picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

GREEN: Colour = (46, 190, 96)
AMBER: Colour = (240, 168, 32)
BLUE: Colour = (58, 124, 224)

MASK_COLOURS: dict[str, Colour] = {"mask": GREEN, "incorrect": AMBER, "none": BLUE}


@dataclass(frozen=True, slots=True)
class Mark:
    """What to draw for one face.

    Attributes:
        box: ``(4,)`` x1, y1, x2, y2 in pixels; may reach beyond the picture's edges.
        landmarks: ``(5, 2)`` points in pixels, or None.
        label: the text at the box; characters that the font lacks become ``?``.
        colour: RGB, 0..255.
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32] | None = None
    label: str = ""
    colour: Colour = GREEN


def draw_faces(image: NDArray[np.uint8], marks: Sequence[Mark]) -> NDArray[np.uint8]:
    """Draw marks on a copy of a picture; the lines grow with the picture so that they can still be seen.

    Args:
        image: RGB uint8 ``(H, W, 3)``; it is not changed.
        marks: what to draw; an empty sequence gives a plain copy.

    Returns:
        RGB uint8 ``(H, W, 3)``.
    """
    canvas = np.ascontiguousarray(image).copy()
    line = max(1, round(min(canvas.shape[:2]) / 300))
    for mark in marks:
        left, top, right, bottom = _clipped(mark.box, canvas.shape)
        if right > left and bottom > top:
            cv2.rectangle(canvas, (left, top), (right, bottom), mark.colour, line)
        if mark.landmarks is not None:
            radius = max(1, round((right - left) / 40))
            for x, y in np.rint(mark.landmarks).astype(int):
                cv2.circle(canvas, (int(x), int(y)), radius, mark.colour, -1, cv2.LINE_AA)
    # Labels last, so that no neighbour's box runs through them.
    for mark in marks:
        if mark.label:
            _draw_label(canvas, mark, line)
    return canvas


def _clipped(box: NDArray[np.float32], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    height, width = shape[:2]
    left, top, right, bottom = (round(float(edge)) for edge in box)
    return (
        int(np.clip(left, 0, width - 1)),
        int(np.clip(top, 0, height - 1)),
        int(np.clip(right, 0, width - 1)),
        int(np.clip(bottom, 0, height - 1)),
    )


def _draw_label(canvas: NDArray[np.uint8], mark: Mark, line: int) -> None:
    """Write the label on a filled strip above the box, or inside it where there is no room above."""
    # Hershey fonts have ASCII only; a name such as "José" is written "Jose" rather than "Jos??".
    letters = (letter for letter in unicodedata.normalize("NFKD", mark.label) if not unicodedata.combining(letter))
    text = "".join(letters).encode("ascii", "replace").decode("ascii")
    scale = max(0.4, min(canvas.shape[:2]) / 1000)
    (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, line)
    left, top, _, _ = _clipped(mark.box, canvas.shape)
    left = max(0, min(left, canvas.shape[1] - width - 1))
    base = top - baseline if top >= height + 2 * baseline else min(top + height + baseline, canvas.shape[0] - 1)
    cv2.rectangle(canvas, (left, base - height - baseline // 2), (left + width, base + baseline), mark.colour, -1)
    cv2.putText(canvas, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), line, cv2.LINE_AA)
