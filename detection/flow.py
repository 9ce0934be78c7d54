"""Following faces from one frame of a video to the next by sparse optical flow: no network, a few milliseconds.

The points of a grid over each face and its landmarks are followed forwards and backwards by pyramidal Lucas-Kanade flow
(Bouguet 2001, in OpenCV). A point that does not come back to where it started is dropped, as in the median-flow tracker
of Kalal et al. ("Forward-backward error: automatic detection of tracking failures", ICPR 2010, section 2); where that
paper takes medians of shifts and distances, we fit a similarity by RANSAC, so that landmarks turn with the head.
Equal input gives equal output: OpenCV seeds RANSAC anew in each call.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from facekd.geometry import apply_affine, compose_affine, invert_affine

FACE_PX = 32
"""The smallest followed face has at least this longer side where the flow is computed, if it has it in the frame."""
FRAME_PX = 320
"""The frame's longer side where the flow is computed, unless ``FACE_PX`` asks for more."""

PATCH_PX = 24
"""Side of the small picture of a face by which its following is checked."""

_WINDOW_PX, _LEVELS = 11, 3  # reaches about 40 px of the reduced frame in one step
_GRID = 5
# Of the box, so that few points lie on the background beside the face; measured from its centre, in half sides.
_FACE_ELLIPSE = 0.8
_RETURN_PX = 1.0  # how near a point must come back, in pixels of the reduced frame
_LEAST_POINTS = 8
_LEAST_SHARE = 0.5  # of the points that were tried, and of these again those that one similarity explains
_FIT_PX, _FIT_SHARE = 0.75, 0.03  # RANSAC: pixels of the reduced frame, or this share of the face's longer side
_MOST_GROWTH = 1.25  # from one frame to the next: a face that grows faster is a mistake

_THUMBNAIL = (32, 24)


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """How a face moved from one frame to the next.

    Attributes:
        matrix: (2, 3) float64, the similarity from pixels of the one to pixels of the other.
    """

    matrix: npt.NDArray[np.float64]

    @property
    def scale(self) -> float:
        """How much larger the face became; 1 is unchanged."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))

    def move_box(self, box: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The box (4,) moved and scaled; it stays upright when the face turns."""
        centre = apply_affine(self.matrix, (box[:2] + box[2:]) / 2)
        half = (box[2:].astype(np.float64) - box[:2]) / 2 * self.scale
        return np.concatenate([centre - half, centre + half]).astype(np.float32)

    def move_points(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Points (N, 2) moved, scaled and turned."""
        return apply_affine(self.matrix, points).astype(np.float32)


class GreyFrame:
    """One frame in grey, and reduced copies of it, each made once.

    Args:
        image: RGB uint8 (H, W, 3).
    """

    def __init__(self, image: npt.NDArray[np.uint8]) -> None:
        self.full = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
        self._reduced: dict[int, npt.NDArray[np.uint8]] = {1: self.full}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.full.shape[1], self.full.shape[0]

    def reduced(self, block: int) -> npt.NDArray[np.uint8]:
        """The frame with ``block`` x ``block`` pixels averaged into one; the last row and column may average more."""
        if block not in self._reduced:
            width, height = (max(1, side // block) for side in self.size)
            self._reduced[block] = np.asarray(cv2.resize(self.full, (width, height), interpolation=cv2.INTER_AREA))
        return self._reduced[block]

    def block_for(self, boxes: npt.NDArray[np.float32]) -> int:
        """By how much the frame may be reduced so that all the boxes (N, 4) can still be followed."""
        face_px = (boxes[:, 2:] - boxes[:, :2]).max(axis=1).min() if len(boxes) else np.inf
        return int(max(1, min(max(self.size) // FRAME_PX, face_px // FACE_PX)))

    def difference(self, other: GreyFrame) -> float:
        """Mean difference of two frames as thumbnails, in grey levels (0..255), their mean brightness taken out."""
        first, second = (frame._thumbnail() for frame in (self, other))
        return float(np.abs(first - second).mean())

    def _thumbnail(self) -> npt.NDArray[np.float32]:
        small = self.reduced(max(1, max(self.size) // FRAME_PX))
        thumbnail = cv2.resize(small, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        return thumbnail - thumbnail.mean()

    def patch(self, place: npt.NDArray[np.float64], block: int) -> npt.NDArray[np.float32]:
        """The face at ``place`` (2, 3), the affine map from the patch to the frame: (PATCH_PX, PATCH_PX) float32."""
        small = self.reduced(block)
        to_small = _scale(self.size, small)
        matrix = np.column_stack([to_small[:, None] * place[:, :2], _reduce(place[:, 2], to_small)])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        patch = cv2.warpAffine(small, matrix, (PATCH_PX, PATCH_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(patch, np.float32)


def patch_place(box: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The affine map (2, 3) from a patch to the middle of a box (4,): the face, without hair and background."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * _FACE_ELLIPSE
    linear = np.diag(2 * half.astype(np.float64) / PATCH_PX)
    return np.column_stack([linear, centre - linear @ np.full(2, (PATCH_PX - 1) / 2)])


def likeness(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """Correlation of two patches, -1..1, higher is more alike; 0 where one of them is flat."""
    a, b = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def follow_faces(
    before: GreyFrame, after: GreyFrame, boxes: npt.NDArray[np.float32], landmarks: npt.NDArray[np.float32]
) -> list[Motion | None]:
    """How each face moved from one frame to the next.

    Args:
        before: the frame that boxes and landmarks belong to.
        after: the next frame, of the same size.
        boxes: (N, 4) ``x1, y1, x2, y2`` in pixels.
        landmarks: (N, 5, 2) in pixels.

    Returns:
        For each face its motion, or None where too few points could be followed, or do not move as one.
    """
    if not len(boxes):
        return []
    block = before.block_for(boxes)
    old, new = before.reduced(block), after.reduced(block)
    to_small = _scale(before.size, old)
    sets = [_points(box, points, before.size) for box, points in zip(boxes, landmarks, strict=True)]
    start = _reduce(np.concatenate(sets), to_small).astype(np.float32)
    if not len(start):
        return [None] * len(sets)
    end, good = _flow(old, new, start)
    motions: list[Motion | None] = []
    first = 0
    for box, points in zip(boxes, sets, strict=True):
        chosen = slice(first, first + len(points))
        first += len(points)
        tolerance_px = max(_FIT_PX, _FIT_SHARE * float((box[2:] - box[:2]).max() * to_small[0]))
        motions.append(_fit(start[chosen], end[chosen], good[chosen], tolerance_px, to_small))
    return motions


def _points(
    box: npt.NDArray[np.float32], landmarks: npt.NDArray[np.float32], size: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Grid points of the face, and its landmarks, as far as they lie in the frame: (K, 2)."""
    line = np.linspace(-1, 1, _GRID)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    grid = grid[(grid**2).sum(axis=1) <= 1.01]
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    points = np.concatenate([centre + grid * half * _FACE_ELLIPSE, landmarks]).astype(np.float64)
    return points[((points >= 0) & (points <= np.array(size) - 1)).all(axis=1)]


def _flow(
    old: npt.NDArray[np.uint8], new: npt.NDArray[np.uint8], start: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Where the points (K, 2) went, and which of them came back."""
    end, forward = _lucas_kanade(old, new, start)
    back, backward = _lucas_kanade(new, old, end)
    returned = np.linalg.norm(back - start, axis=1) <= _RETURN_PX
    return end, returned & forward & backward


def _lucas_kanade(
    old: npt.NDArray[np.uint8], new: npt.NDArray[np.uint8], points: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        old, new, points, np.empty_like(points), winSize=(_WINDOW_PX, _WINDOW_PX), maxLevel=_LEVELS
    )
    return np.asarray(moved, np.float32), np.asarray(status).ravel() == 1


def _fit(
    start: npt.NDArray[np.float32],
    end: npt.NDArray[np.float32],
    good: npt.NDArray[np.bool_],
    tolerance_px: float,
    to_small: npt.NDArray[np.float64],
) -> Motion | None:
    """The similarity that most points of one face agree on, in pixels of the whole frame."""
    if good.sum() < max(_LEAST_POINTS, _LEAST_SHARE * len(good)):
        return None
    matrix, inliers = cv2.estimateAffinePartial2D(
        start[good], end[good], method=cv2.RANSAC, ransacReprojThreshold=tolerance_px
    )
    if matrix is None or inliers.sum() < max(_LEAST_POINTS, _LEAST_SHARE * good.sum()):
        return None
    # From pixels of the frame to reduced ones, through the fit, and back.
    shrink = np.column_stack([np.diag(to_small), _reduce(np.zeros(2), to_small)])
    motion = Motion(compose_affine(invert_affine(shrink), compose_affine(np.asarray(matrix, np.float64), shrink)))
    return motion if 1 / _MOST_GROWTH <= motion.scale <= _MOST_GROWTH else None


def _scale(size: tuple[int, int], reduced: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Reduced pixels for one pixel of the frame, along x and y."""
    return np.array([reduced.shape[1] / size[0], reduced.shape[0] / size[1]])


def _reduce(points: npt.NDArray[np.float64], to_small: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points of the frame in pixels of the reduced one; a pixel's coordinates are those of its centre."""
    return (points + 0.5) * to_small - 0.5
