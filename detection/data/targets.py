"""What each anchor should say: matching of anchors to faces, in NumPy, once for training and for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facekd.detection.anchors import anchors as make_anchors
from facekd.detection.codec import encode_boxes, encode_landmarks
from facekd.geometry import box_iou, share_inside

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
POSITIVE_IOU = 0.35
IGNORED_SHARE = 0.5  # of an anchor's area inside an ignore region


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """The targets of one picture.

    Attributes:
        labels: (A,) int8: 1 positive, 0 negative, -1 neither.
        positives: (P,) int64: indices of the positive anchors, rising.
        boxes: (P, 4) float32: codes of the face of each positive anchor.
        landmarks: (P, 10) float32: likewise; 0 where unknown.
        landmark_weights: (P,) float32: 0 where the landmarks are unknown.
    """

    labels: NDArray[np.int8]
    positives: NDArray[np.int64]
    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    landmark_weights: NDArray[np.float32]


def make_targets(
    size: int,
    boxes: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    ignore: NDArray[np.bool_],
    landmark_weights: NDArray[np.float32],
) -> Targets:
    """Match the anchors of a square picture to its faces.

    An anchor is positive for the face it overlaps most if that overlap is at least 0.35; and every face keeps the
    anchor that overlaps it most, in falling order of that overlap (a later face takes its best among those left).
    Anchors on an ignore region (its best one; those of IoU 0.35 or more; those half inside it) that are not positive
    are neither.

    Args:
        size: side of the picture in pixels, a multiple of 32.
        boxes: (N, 4) ``x1, y1, x2, y2`` in pixels, faces and ignore regions.
        landmarks: (N, 5, 2), NaN where unknown.
        ignore: (N,): which boxes are ignore regions.
        landmark_weights: (N,).
    """
    squares = make_anchors(size, size)
    half = squares[:, 2:] / 2
    corners = np.concatenate([squares[:, :2] - half, squares[:, :2] + half], axis=1)
    labels = np.full(len(squares), NEGATIVE, np.int8)

    regions = boxes[ignore]
    if len(regions):
        overlap = box_iou(regions, corners)
        labels[(overlap >= POSITIVE_IOU).any(axis=0) | (share_inside(corners, regions) >= IGNORED_SHARE)] = IGNORED
        labels[overlap.argmax(axis=1)] = IGNORED

    faces, points, weights = boxes[~ignore], landmarks[~ignore], landmark_weights[~ignore]
    if not len(faces):
        boxes, codes = np.empty((0, 4), np.float32), np.empty((0, 10), np.float32)
        return Targets(labels, np.empty(0, np.int64), boxes, codes, np.empty(0, np.float32))
    overlap = box_iou(faces, corners)
    face_of = overlap.argmax(axis=0)
    taken = np.zeros(len(squares), bool)
    for face in np.argsort(-overlap.max(axis=1), kind="stable"):
        best = int(np.where(taken, -1.0, overlap[face]).argmax())
        taken[best] = True
        face_of[best] = face
    positives = np.flatnonzero(taken | (overlap.max(axis=0) >= POSITIVE_IOU))
    labels[positives] = POSITIVE
    face_of = face_of[positives]
    known = np.asarray(np.isfinite(points).all(axis=(1, 2)))
    landmark_codes = encode_landmarks(np.nan_to_num(points[face_of]), squares[positives])
    landmark_codes[~known[face_of]] = 0.0
    return Targets(
        labels,
        positives,
        encode_boxes(faces[face_of], squares[positives]).astype(np.float32),
        landmark_codes.astype(np.float32),
        np.where(known, weights, 0.0)[face_of].astype(np.float32),
    )
