"""Alignment: known transforms are undone, shrinking does not alias, any size of picture works."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.errors import ImageError
from facekd.geometry import apply_affine, invert_affine
from facekd.recognition.align import TEMPLATE, align_face, alignment_matrix


def test_template_is_arcface() -> None:
    assert TEMPLATE.tolist() == [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]


@given(st.floats(0.05, 20), st.floats(-np.pi, np.pi), st.floats(-5000, 5000), st.floats(-5000, 5000))
def test_known_transform_is_recovered(scale: float, angle: float, x: float, y: float) -> None:
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    to_photograph = np.array([[cosine, -sine, x], [sine, cosine, y]])
    landmarks = apply_affine(to_photograph, TEMPLATE)
    np.testing.assert_allclose(alignment_matrix(landmarks), invert_affine(to_photograph), rtol=1e-6, atol=1e-5)


def smooth(points: np.ndarray) -> np.ndarray:
    """Grey values 30..220 that vary slowly over the crop, at points (..., 2) of it."""
    return 125 + 60 * np.sin(points[..., 0] / 18) + 35 * np.cos(points[..., 1] / 23)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.3, 7), st.floats(-np.pi, np.pi))
def test_crop_shows_what_lies_there(scale: float, angle: float) -> None:
    side = int(np.ceil(112 * scale * 1.5)) + 8
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    to_photograph = np.column_stack([linear, side / 2 - linear @ [55.5, 55.5]])
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1)
    values = smooth(apply_affine(invert_affine(to_photograph), grid))
    photograph = np.repeat(np.round(values)[..., None], 3, axis=2).astype(np.uint8)
    crop = align_face(photograph, apply_affine(to_photograph, TEMPLATE))
    assert crop.shape == (112, 112, 3)
    assert crop.dtype == np.uint8
    expected = smooth(np.stack(np.meshgrid(np.arange(112), np.arange(112)), axis=-1))
    assert np.abs(crop[..., 0] - expected).max() < 4


def test_strong_shrinking_averages_instead_of_aliasing() -> None:
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 200  # one pixel wide: any sampling without a filter shows stripes or one of the two values
    landmarks = TEMPLATE * 8 + 100
    crop = align_face(stripes, landmarks)
    assert np.abs(crop.astype(int) - 100).max() <= 2
    naive = cv2.warpAffine(stripes, alignment_matrix(landmarks), (112, 112), flags=cv2.INTER_LINEAR)
    assert np.abs(naive.astype(int) - 100).max() > 50  # so the test can fail


def test_mild_warps_equal_warp_affine() -> None:
    image = np.random.default_rng(0).integers(0, 256, (250, 250, 3), np.uint8)
    landmarks = TEMPLATE * 1.3 + [51.3, 40.8]
    plain = cv2.warpAffine(image, alignment_matrix(landmarks), (112, 112), flags=cv2.INTER_LINEAR)
    assert np.abs(align_face(image, landmarks).astype(int) - plain).max() <= 1


def test_beyond_the_picture_is_black() -> None:
    image = np.full((60, 60, 3), 200, np.uint8)
    assert (align_face(image, TEMPLATE + 1000) == 0).all()
    half = align_face(image, TEMPLATE * 4 - 220)
    assert half[:5].max() == 0
    assert half.max() == 200


def test_very_wide_pictures() -> None:
    image = np.full((130, 40000, 3), 90, np.uint8)  # cv2.warpAffine alone refuses more than 32767 columns
    assert (align_face(image, TEMPLATE + np.array([39000, 5])) == 90).all()


def test_other_sizes_scale() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    blurred = cv2.GaussianBlur(image, (0, 0), 6)
    large, usual = (align_face(blurred, TEMPLATE * 2 + 50, size) for size in (224, 112))
    assert large.shape == (224, 224, 3)
    shrunk = cv2.resize(large, (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - usual).mean() < 2


@pytest.mark.parametrize("landmarks", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((4, 2))])
def test_bad_landmarks(landmarks: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"similarity|finite|five"):
        align_face(np.zeros((50, 50, 3), np.uint8), landmarks)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.ones((50, 50, 3)), r"float64 \(50, 50, 3\)"),
        (np.ones((50, 50, 3), np.uint16), "uint16"),
        (np.ones((50, 50), np.uint8), r"\(50, 50\)"),
        (np.ones((50, 50, 4), np.uint8), r"\(50, 50, 4\)"),
        ("portrait.jpg", "str"),
    ],
)
def test_other_pictures_than_rgb_of_eight_bits_are_refused(picture: Any, said: str) -> None:
    with pytest.raises(ImageError, match=f"RGB uint8.*{said}"):
        align_face(picture, TEMPLATE)
