"""Optical flow over faces: known motions come out, and what is not there any more is not followed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facekd.demo import portrait
from facekd.detection.flow import GreyFrame, follow_faces, likeness, patch_place
from facekd.geometry import apply_affine, compose_affine

BOX = np.float32([332, 84, 538, 357])
LANDMARKS = np.float32([[385, 183], [486, 184], [437, 239], [391, 286], [480, 286]])


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return portrait("obama.jpg")[:640]


def _moved(picture: np.ndarray, matrix: np.ndarray) -> GreyFrame:
    size = picture.shape[1::-1]
    return GreyFrame(cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REFLECT))


def _similarity(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((435.0, 220.0), degrees, scale)
    matrix[:, 2] += shift
    return matrix


@pytest.mark.parametrize(
    ("scale", "degrees", "shift"),
    [(1.0, 0.0, (0.0, 0.0)), (1.0, 0.0, (31.0, -17.5)), (1.08, 0.0, (0.0, 0.0)), (0.95, 5.0, (12.0, 8.0))],
)
def test_a_known_similarity_comes_out(
    picture: np.ndarray, scale: float, degrees: float, shift: tuple[float, float]
) -> None:
    matrix = _similarity(scale, degrees, shift)
    (motion,) = follow_faces(GreyFrame(picture), _moved(picture, matrix), BOX[None], LANDMARKS[None])
    assert motion is not None
    assert motion.scale == pytest.approx(scale, abs=0.01)
    assert np.abs(motion.move_points(LANDMARKS) - apply_affine(matrix, LANDMARKS)).max() < 1.0  # 1 % of the eyes
    box = motion.move_box(BOX)
    assert np.abs((box[:2] + box[2:]) / 2 - apply_affine(matrix, (BOX[:2] + BOX[2:]) / 2)).max() < 1.0
    assert (box[2:] - box[:2]) / (BOX[2:] - BOX[:2]) == pytest.approx(scale, abs=0.01)


def test_nobody_is_followed_where_nobody_is(picture: np.ndarray) -> None:
    before = GreyFrame(picture)
    assert follow_faces(before, before, np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32)) == []
    noise = GreyFrame(np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8))
    flat = GreyFrame(np.full_like(picture, 90))
    for after in (noise, flat):
        assert follow_faces(before, after, BOX[None], LANDMARKS[None]) == [None]
    beyond = np.float32([2000, 2000])
    boxes, points = np.stack([BOX + np.tile(beyond, 2), BOX]), np.stack([LANDMARKS + beyond, LANDMARKS])
    outside, inside = follow_faces(before, before, boxes, points)
    assert outside is None
    assert inside is not None
    assert follow_faces(before, before, boxes[:1], points[:1]) == [None]


def test_large_frames_are_reduced_as_far_as_their_faces_allow() -> None:
    frame = GreyFrame(np.zeros((1080, 1920, 3), np.uint8))
    assert frame.block_for(np.zeros((0, 4), np.float32)) == 6
    assert frame.block_for(np.float32([[0, 0, 300, 400]])) == 6
    assert frame.block_for(np.float32([[0, 0, 300, 400], [0, 0, 80, 100]])) == 3
    assert frame.block_for(np.float32([[0, 0, 10, 12]])) == 1
    assert frame.reduced(6).shape == (180, 320)
    assert frame.reduced(1) is frame.full


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_patch_shows_the_same_at_every_reduction_and_after_every_motion(picture: np.ndarray, block: int) -> None:
    frame, place = GreyFrame(picture), patch_place(BOX)
    patch = frame.patch(place, 2)
    assert likeness(patch, frame.patch(place, block)) > 0.97
    matrix = _similarity(0.95, 5.0, (12.0, 8.0))
    assert likeness(patch, _moved(picture, matrix).patch(compose_affine(matrix, place), block)) > 0.97
    assert likeness(patch, _moved(picture, matrix).patch(place, block)) < 0.9


def test_likeness_is_a_correlation() -> None:
    patch = np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32)
    assert likeness(patch, 3 * patch + 20) == pytest.approx(1.0)
    assert likeness(patch, -patch) == pytest.approx(-1.0)
    assert likeness(patch, np.ones_like(patch)) == 0.0


def test_difference_ignores_brightness_and_grows_with_change(picture: np.ndarray) -> None:
    frame = GreyFrame((picture // 2).astype(np.uint8))
    assert frame.difference(GreyFrame((picture // 2 + 60).astype(np.uint8))) < 1.0
    assert frame.difference(GreyFrame(np.ascontiguousarray(picture[:, ::-1]) // 2)) > 12.0
