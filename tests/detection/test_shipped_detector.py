"""The shipped detector and refiner on the packaged portraits, made as large and as small as faces come."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd.detection.detector import Detection, Detector
from facekd.geometry import apply_affine, box_iou
from facekd.images import load_image
from facekd.warp import warp_square

PORTRAITS = ("hopper.jpg", "obama.jpg", "obama2.jpg", "obama3.jpg")


@pytest.fixture(scope="module")
def detector() -> Detector:
    detector = Detector(threads=2)
    assert detector.refiner is not None
    return detector


def portrait(portraits: Path, name: str, detector: Detector) -> tuple[np.ndarray, Detection]:
    picture = load_image(portraits / name)
    return picture, detector.detect(picture)[0]


@pytest.mark.parametrize("name", PORTRAITS)
@pytest.mark.parametrize("side", [240, 640, 2000])
def test_a_face_of_nine_tenths_of_the_frame(detector: Detector, portraits: Path, name: str, side: int) -> None:
    picture, face = portrait(portraits, name, detector)
    scale = 0.9 * side / float((face.box[2:] - face.box[:2]).max())
    centre = (face.box[:2] + face.box[2:]) / 2
    frame = np.column_stack([scale * np.eye(2), side / 2 - scale * centre])
    close = warp_square(picture, frame, side)
    (found,) = detector.detect(close)
    truth = apply_affine(frame, face.box.reshape(2, 2)).reshape(1, 4)
    assert box_iou(found.box[None], truth)[0, 0] > 0.6
    eyes = scale * np.linalg.norm(face.landmarks[1] - face.landmarks[0])
    error = np.linalg.norm(found.landmarks - apply_affine(frame, face.landmarks), axis=1).mean()
    assert error < 0.12 * eyes


@pytest.mark.parametrize("name", PORTRAITS)
def test_a_face_of_20_px_in_a_photograph_of_4000(detector: Detector, portraits: Path, name: str) -> None:
    picture, face = portrait(portraits, name, detector)
    scale = 20 / float((face.box[2:] - face.box[:2]).max())
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    photograph = np.full((3000, 4000, 3), 120, np.uint8)
    top, left = 1777, 2531
    photograph[top : top + small.shape[0], left : left + small.shape[1]] = small
    found = detector.detect(photograph)
    assert len(found) == 1
    truth = face.box * scale + np.array([left, top, left, top], np.float32)
    assert box_iou(found[0].box[None], truth[None])[0, 0] > 0.5


def test_nobody_in_noise_and_in_plain_colours(detector: Detector) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (480, 640, 3), np.uint8)
    for picture in (noise, cv2.GaussianBlur(noise, (0, 0), 6), np.zeros_like(noise), np.full_like(noise, 255)):
        assert detector.detect(picture) == []
