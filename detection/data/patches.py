"""Patches for the refiner: faces, and what a detector takes for faces, cut out with room to turn and shift them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from facekd.detection.codec import FloatArray
from facekd.detection.data.changes import ChangeSettings, change
from facekd.detection.data.crops import MIRRORED, Crop
from facekd.detection.detector import Detection
from facekd.detection.labels import LabelledPhotograph
from facekd.detection.refiner import EYES_PX, SIDE_PX, decode_box, encode_box, encode_points, frame_of
from facekd.engine.settings import Fraction, Section
from facekd.geometry import apply_affine, box_iou, compose_affine, share_inside
from facekd.warp import warp_square

PATCH_PX = 112
"""Side of a patch: a square of 64 px can be turned, shifted and shrunk in it."""
PATCH_EYES_PX = 20.0
_ENLARGED = PATCH_EYES_PX / EYES_PX
_TO_PATCH = np.column_stack([_ENLARGED * np.eye(2), np.full(2, (PATCH_PX - _ENLARGED * SIDE_PX) / 2)])
_MIRROR = np.array([[-1.0, 0.0, SIDE_PX], [0.0, 1.0, 0.0]])

FACE_IOU = 0.5
NO_FACE_IOU = 0.3
IGNORED_SHARE = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """N patches with what is known of them, in their own pixels.

    Attributes:
        pixels: (N, 112, 112, 3) uint8 RGB.
        faces: (N,) bool: a face, or none.
        points: (N, 5, 2) float32: true landmarks, NaN where unknown.
        boxes: (N, 4) float32 ``x1, y1, x2, y2``: true boxes, NaN where unknown.
        weights: (N,) float32: how often a face with known landmarks is drawn, relative to the others.
        framed: (N,) bool: the patch lies as a detector saw the face, otherwise as its true landmarks say.
    """

    pixels: NDArray[np.uint8]
    faces: NDArray[np.bool_]
    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    weights: NDArray[np.float32]
    framed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def join(cls, parts: Sequence[Patches]) -> Patches:
        """All of them, one after the other."""
        every = [cls.none(), *parts]
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in every]) for f in fields(cls)})

    @classmethod
    def none(cls) -> Patches:
        """No patch."""
        return cls(
            pixels=np.empty((0, PATCH_PX, PATCH_PX, 3), np.uint8),
            faces=np.empty(0, bool),
            points=np.empty((0, 5, 2), np.float32),
            boxes=np.empty((0, 4), np.float32),
            weights=np.empty(0, np.float32),
            framed=np.empty(0, bool),
        )


def cut_patches(
    rgb: NDArray[np.uint8], label: LabelledPhotograph, detections: Sequence[Detection], weight: float = 1.0
) -> Patches:
    """The patches of one photograph.

    Every labelled face with landmarks gives one patch, laid by these. Every detection gives one, laid by the landmarks
    that the detector saw: as a face if it overlaps one by at least one half, as none if by less than three tenths and
    if less than three tenths of it lie in an ignore region; what is between the two teaches nothing.

    Args:
        rgb: (H, W, 3) uint8.
        label: the faces, in pixels of ``rgb``.
        detections: what a detector found, at a low threshold.
        weight: how often its faces with known landmarks are drawn, relative to those of other photographs.
    """
    boxes, landmarks = label.boxes[~label.ignore], label.landmarks[~label.ignore]
    rows: list[tuple[NDArray[np.uint8], bool, FloatArray, FloatArray, bool]] = []

    def add(box: FloatArray, points: FloatArray, face: int | None, *, framed: bool) -> None:
        frame = compose_affine(_TO_PATCH, frame_of(box, points))
        scale = float(np.hypot(frame[0, 0], frame[1, 0]))
        true_points, true_box = np.full((5, 2), np.nan), np.full(4, np.nan)
        if face is not None:
            true_points = apply_affine(frame, landmarks[face])
            centre = apply_affine(frame, (boxes[face, :2] + boxes[face, 2:]) / 2)
            half = (boxes[face, 2:] - boxes[face, :2]) * scale / 2
            true_box = np.concatenate([centre - half, centre + half])
        rows.append((warp_square(rgb, frame, PATCH_PX), face is not None, true_points, true_box, framed))

    for face, points in enumerate(landmarks):
        if np.isfinite(points).all():
            add(boxes[face], points, face, framed=False)
    if detections:
        found = np.array([detection.box for detection in detections], np.float32)
        overlaps = box_iou(found, boxes) if len(boxes) else np.zeros((len(found), 1), np.float32)
        ignored = share_inside(found, label.boxes[label.ignore]) >= IGNORED_SHARE
        for row, detection in enumerate(detections):
            best = int(overlaps[row].argmax())
            if overlaps[row, best] >= FACE_IOU:
                add(detection.box, detection.landmarks, best, framed=True)
            elif overlaps[row, best] < NO_FACE_IOU and not ignored[row]:
                add(detection.box, detection.landmarks, None, framed=True)
    return Patches(
        np.array([row[0] for row in rows], np.uint8).reshape(-1, PATCH_PX, PATCH_PX, 3),
        np.array([row[1] for row in rows], bool),
        np.array([row[2] for row in rows], np.float32).reshape(-1, 5, 2),
        np.array([row[3] for row in rows], np.float32).reshape(-1, 4),
        np.full(len(rows), weight, np.float32),
        np.array([row[4] for row in rows], bool),
    )


class SquareSettings(Section):
    """How squares are drawn from patches.

    Attributes:
        shift: standard deviation of the shift, in eye distances, of faces that lie as their true landmarks say; those
            that lie as a detector saw them are moved by ``again`` of all this.
        turn: standard deviation of the turn, degrees.
        scale: standard deviation of the logarithm of the scale.
        far: share of the squares that are moved by twice that.
        again: see above.
        flip: share of mirrored squares.
        small: share of squares whose face is first shrunk to 12 to 40 px, as distant faces are.
    """

    shift: float = Field(default=0.12, ge=0)
    turn: float = Field(default=7.0, ge=0)
    scale: float = Field(default=0.10, ge=0)
    far: Fraction = 0.15
    again: Fraction = 0.4
    flip: Fraction = 0.5
    small: Fraction = 0.25


def draw_square(
    patches: Patches, row: int, settings: SquareSettings, changes: ChangeSettings, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """A random square of one patch: pixels (64, 64, 3), codes of points (10,) and box (4,), NaN where unknown."""
    amount = (settings.again if patches.framed[row] else 1.0) * (2.0 if rng.random() < settings.far else 1.0)
    angle = np.deg2rad(rng.normal(0.0, settings.turn * amount))
    scale = np.exp(rng.normal(0.0, settings.scale * amount)) / _ENLARGED
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = SIDE_PX / 2 + rng.normal(0.0, settings.shift * EYES_PX * amount, 2)
    frame = np.column_stack([linear, target - linear @ np.full(2, PATCH_PX / 2)])
    mirrored = rng.random() < settings.flip
    if mirrored:
        # About the frame's own middle: reversing the rows would move the frame by a pixel, and the eyes with it.
        frame = compose_affine(_MIRROR, frame)
    pixels = warp_square(patches.pixels[row], frame, SIDE_PX)
    points = apply_affine(frame, patches.points[row])[MIRRORED if mirrored else slice(None)]
    box = encode_box(patches.boxes[row], frame)
    if rng.random() < settings.small:
        side = int(rng.integers(12, 40))
        little = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        pixels = np.asarray(cv2.resize(little, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR), np.uint8)
    # What is changed on a face (a mask, a cover) needs to know where it is; the square is its own frame.
    seen = decode_box(box, np.eye(2, 3))[None] if patches.faces[row] else np.empty((0, 4))
    crop = Crop(
        pixels,
        np.asarray(seen, np.float32).clip(0, SIDE_PX),
        points[None].astype(np.float32)[: len(seen)],
        np.zeros(len(seen), bool),
        np.ones(len(seen), np.float32),
    )
    return change(crop, changes, rng).pixels, encode_points(points), box
