"""Videos of which every face is known: packaged portraits move over a made-up background, grow, turn and cross.

For measurements and tests of tracking. Nothing here says how well the detector finds faces: the portraits are sharp,
frontal and well lit, and nobody moves in the third dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from facekd.demo import portrait
from facekd.geometry import apply_affine, compose_affine

Picture = npt.NDArray[np.uint8]

# Box and five landmarks in pixels of the packaged portrait: what the shipped detector found on 2026-11-22, rounded.
_FACES: dict[str, tuple[tuple[int, ...], tuple[tuple[int, int], ...]]] = {
    "obama.jpg": ((332, 84, 538, 357), ((385, 183), (486, 184), (437, 239), (391, 286), (480, 286))),
    "biden.jpg": ((227, 104, 389, 300), ((284, 183), (354, 183), (326, 221), (288, 250), (348, 250))),
    "hopper.jpg": ((172, 103, 357, 342), ((223, 193), (311, 193), (269, 238), (229, 276), (306, 276))),
}
PORTRAITS = tuple(_FACES)
_HEAD = (0.72, 0.68)  # half axes of the head that is cut out, in widths and heights of the box


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a face is: centre of its box and the box's height in pixels, and its turn in degrees, clockwise."""

    x: float
    y: float
    height_px: float
    roll_degrees: float = 0.0


@dataclass(frozen=True, slots=True)
class Actor:
    """A face that moves evenly from one pose to another while it is in the picture.

    Attributes:
        portrait: one of ``PORTRAITS``.
        start, end: its poses in the first and in the last frame of the scene.
    """

    portrait: str
    start: Pose
    end: Pose

    def pose(self, share: float) -> Pose:
        """Its pose when that share of the way is done, 0..1."""
        a, b = self.start, self.end
        mixed = ((1 - share) * getattr(a, name) + share * getattr(b, name) for name in Pose.__slots__)
        return Pose(*mixed)


@dataclass(frozen=True, slots=True, eq=False)
class TrueFace:
    """A face as it is, by construction.

    Attributes:
        actor: number of the actor in the scene.
        box: (4,) float32 in pixels of the frame.
        landmarks: (5, 2) float32.
        visible: share of the head that is in the frame and not behind another one, 0..1.
    """

    actor: int
    box: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]
    visible: float


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticFrame:
    """One frame, RGB uint8 (H, W, 3), and all faces of the scene, seen or not."""

    image: Picture
    faces: tuple[TrueFace, ...]


def play(
    actors: Sequence[Actor], frames: int, size: tuple[int, int] = (640, 480), seed: int = 0, noise: float = 2.0
) -> Iterator[SyntheticFrame]:
    """The frames of one scene.

    Args:
        actors: who is in it; later ones stand before earlier ones.
        frames: how many.
        size: width and height in pixels.
        seed: of background and noise: another seed is another place.
        noise: standard deviation of the sensor's noise in grey levels.
    """
    generator = np.random.default_rng(seed)
    background = _background(size, generator)
    for number in range(frames):
        share = number / max(1, frames - 1)
        canvas = background.copy()
        free = np.ones((size[1], size[0]), np.float32)  # not yet behind somebody
        faces = []
        placed = [_place(actor, actor.pose(share), size) for actor in actors]
        for number_of, head in reversed(list(enumerate(placed))):
            faces.append(TrueFace(number_of, head.box, head.landmarks, float((head.alpha * free).sum()) / head.area))
            free = np.minimum(free, 1 - head.alpha)
        for head in placed:
            canvas += head.alpha[..., None] * (head.picture - canvas)
        canvas += generator.normal(0, noise, canvas.shape).astype(np.float32)
        yield SyntheticFrame(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), tuple(reversed(faces)))


def _background(size: tuple[int, int], generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Soft coloured clouds of several sizes: (H, W, 3) float32."""
    clouds = np.full((size[1], size[0], 3), 128, np.float32)
    for cells in (3, 8, 24, 64):
        field = generator.normal(0, 45 / np.sqrt(cells), (cells, cells, 3)).astype(np.float32)
        clouds += cv2.resize(field, size, interpolation=cv2.INTER_CUBIC) * np.sqrt(3)
    return np.clip(clouds, 0, 255)


@dataclass(frozen=True, slots=True, eq=False)
class _Head:
    """A head on its picture (h, w, 3), its soft outline (h, w), and the map (2, 3) from there to the portrait."""

    picture: npt.NDArray[np.float32]
    alpha: npt.NDArray[np.float32]
    to_portrait: npt.NDArray[np.float64]


@cache
def _head(name: str, halvings: int) -> _Head:
    """The head of a portrait, halved so often: cv2.warpAffine, which goes on from there, knows no area filter."""
    picture = portrait(name).astype(np.float32)
    left, top, right, bottom = _FACES[name][0]
    y, x = np.ogrid[: picture.shape[0], : picture.shape[1]]
    across = (x - (left + right) / 2) / ((right - left) * _HEAD[0])
    down = (y - (top + bottom) / 2) / ((bottom - top) * _HEAD[1])
    alpha = np.clip((1.0 - np.hypot(across, down)) / 0.12, 0, 1).astype(np.float32)
    full = alpha.shape[::-1]
    small = (full[0] >> halvings, full[1] >> halvings)
    block = np.array(full) / small
    to_portrait = np.column_stack([np.diag(block), (block - 1) / 2])
    return _Head(_resized(picture, small), _resized(alpha, small), to_portrait)


def _resized(array: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_AREA), np.float32)


def _warped(
    array: npt.NDArray[np.float32], matrix: npt.NDArray[np.float64], size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.warpAffine(array, matrix, size, flags=cv2.INTER_LINEAR), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """A head on an empty frame with its outline and the outline's whole area, and where the face is."""

    picture: npt.NDArray[np.float32]
    alpha: npt.NDArray[np.float32]
    area: float
    box: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]


def _place(actor: Actor, pose: Pose, size: tuple[int, int]) -> _Placed:
    corners, points = (np.array(values, np.float64) for values in _FACES[actor.portrait])
    sides = corners[2:] - corners[:2]
    scale = pose.height_px / float(sides[1])
    angle = np.radians(pose.roll_degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([pose.x, pose.y])
    from_portrait = np.column_stack([linear, centre - linear @ (corners[:2] + corners[2:]) / 2])
    head = _head(actor.portrait, max(0, int(np.floor(-np.log2(scale)))))
    matrix = compose_affine(from_portrait, head.to_portrait)
    return _Placed(
        _warped(head.picture, matrix, size),
        _warped(head.alpha, matrix, size),
        float(head.alpha.sum()) * abs(float(np.linalg.det(matrix[:, :2]))),
        np.concatenate([centre - sides * scale / 2, centre + sides * scale / 2]).astype(np.float32),
        apply_affine(from_portrait, points).astype(np.float32),
    )
