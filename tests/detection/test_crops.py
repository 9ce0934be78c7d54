"""Crops: pixels and labels must move together, whatever is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.detection.data.crops import CropSettings, cut_window, draw_crop, draw_window, join_mosaic, mirror
from facekd.detection.data.photographs import Photograph, make_photograph
from facekd.detection.labels import LabelledPhotograph

WIDTH, HEIGHT = 320, 240


def make(
    boxes: list[list[float]], ignore: list[bool] | None = None, points: np.ndarray | None = None, weight: float = 1.0
) -> Photograph:
    """A photograph whose brightness says where a pixel came from: it rises by a half each pixel from left to right."""
    grey = np.broadcast_to((np.arange(WIDTH) * 0.5 + 40).astype(np.uint8)[None, :], (HEIGHT, WIDTH))
    table = np.array(boxes, np.float32).reshape(-1, 4)
    landmarks = points if points is not None else np.full((len(table), 5, 2), np.nan, np.float32)
    flags = np.array(ignore if ignore is not None else [False] * len(table), bool)
    label = LabelledPhotograph("a", WIDTH, HEIGHT, table, landmarks.astype(np.float32), flags)
    return make_photograph(np.repeat(grey[..., None], 3, axis=2).copy(), label, weight)


FACE = [100.0, 80.0, 160.0, 150.0]
POINTS = np.array([[[115, 105], [145, 105], [130, 120], [118, 135], [142, 135]]], np.float32)


@pytest.mark.parametrize("drawn", [{"around_face": 1.0}, {"around_face": 0.0, "zoom_out": 1.0}], ids=["face", "far"])
@pytest.mark.parametrize("seed", range(20))
def test_landmarks_stay_on_their_pixels(seed: int, drawn: dict[str, float]) -> None:
    rng = np.random.default_rng(seed)
    photograph = make([FACE], points=POINTS)
    crop = draw_crop(photograph, 96, CropSettings(smallest_face=12, ignore_below=0, **drawn), rng)
    assert crop.ignore.tolist() == [False]  # both ways of drawing keep the face's centre in the crop
    assert ((crop.landmarks >= 3) & (crop.landmarks < 93)).all(axis=-1).any()
    # Known by its brightness, whether mirrored, enlarged, shrunk or shifted.
    mirrored = crop.landmarks[0, 0, 0] > crop.landmarks[0, 1, 0]
    assert not mirrored
    for x, y in crop.landmarks[0]:
        if 3 <= x < 93 and 3 <= y < 93:
            column = (float(crop.pixels[int(y), int(x), 0]) - 40) * 2
            nearest = np.abs(POINTS[0, :, 0] - column).min()
            scale = 96 / (crop.boxes[0, 2] - crop.boxes[0, 0]) * 60 / 96
            assert nearest <= 4 + scale


def test_a_window_inside_maps_boxes_by_shift_and_scale() -> None:
    crop = cut_window(make([FACE], points=POINTS), 80, 60, 120, 240)
    np.testing.assert_allclose(crop.boxes, [[40, 40, 160, 180]])
    np.testing.assert_allclose(crop.landmarks[0, 0], [70, 90])


@pytest.mark.parametrize("side", [400, 800, 1600])
def test_a_window_larger_than_the_photograph_is_filled_up_and_uses_smaller_copies(side: int) -> None:
    crop = cut_window(make([FACE], points=POINTS), -40, -40, side, 160, fill=255)
    factor = 160 / side
    assert (crop.pixels[-5:] == 255).all()
    assert (crop.pixels[:, -5:] == 255).all()
    np.testing.assert_allclose(crop.boxes[0], (np.array(FACE) + 40) * factor, atol=1.0)
    middle = crop.pixels[round((120 + 40) * factor), round((160 + 40) * factor), 0]
    assert abs(float(middle) - 120) < 8


def test_faces_are_kept_by_their_centre_and_clipped_and_small_ones_ignored() -> None:
    photograph = make(
        [[90, 100, 130, 140], [60, 100, 110, 140], [150, 150, 154, 154], [10, 10, 20, 20], [120, 120, 140, 140]],
        [False, False, False, False, True],
        weight=2.0,
    )
    crop = cut_window(photograph, 100, 100, 100, 100, ignore_below=7.0)
    # The first keeps its centre inside; the second does not; the third is too small; the fourth is not in the window.
    np.testing.assert_allclose(crop.boxes, [[0, 0, 30, 40], [0, 0, 10, 40], [50, 50, 54, 54], [20, 20, 40, 40]])
    assert crop.ignore.tolist() == [False, True, True, True]
    assert (crop.landmark_weights == 2.0).all()


def test_a_mirrored_crop_exchanges_left_and_right_and_twice_is_the_same() -> None:
    crop = cut_window(make([FACE], points=POINTS), 80, 60, 120, 120)
    turned = mirror(crop)
    np.testing.assert_allclose(turned.boxes, [[40, 20, 100, 90]])
    np.testing.assert_allclose(turned.landmarks[0, 0], [120 - 65, 45])  # the right eye of before
    assert turned.landmarks[0, 0, 0] < turned.landmarks[0, 1, 0]
    assert turned.landmarks[0, 3, 0] < turned.landmarks[0, 4, 0]
    again = mirror(turned)
    np.testing.assert_array_equal(again.pixels, crop.pixels)
    np.testing.assert_allclose(again.boxes, crop.boxes)
    np.testing.assert_allclose(again.landmarks, crop.landmarks)


def test_a_mosaic_puts_each_crop_and_its_labels_in_its_quarter() -> None:
    parts = [cut_window(make([FACE], points=POINTS), 80, 60, 120, 48) for _ in range(4)]
    joined = join_mosaic(parts)
    assert joined.pixels.shape == (96, 96, 3)
    for part, box, x, y in zip(parts, joined.boxes, (0, 48, 0, 48), (0, 0, 48, 48), strict=True):
        np.testing.assert_array_equal(joined.pixels[y : y + 48, x : x + 48], part.pixels)
        np.testing.assert_allclose(box, part.boxes[0] + [x, y, x, y])


@pytest.mark.parametrize("seed", range(20))
def test_a_window_around_a_face_gives_it_a_size_within_the_limits_and_holds_it(seed: int) -> None:
    settings = CropSettings(around_face=1.0, smallest_face=20, largest_face=0.5)
    x, y, side = draw_window(make([FACE]), 100, settings, np.random.default_rng(seed))
    face = np.sqrt(60 * 70) * 100 / side
    assert 19.9 <= face <= 50.1 or side == pytest.approx(2 * WIDTH)
    assert x <= 100
    assert y <= 80
    assert x + side >= 160
    assert y + side >= 150


def test_a_small_face_is_not_enlarged_beyond_the_limit() -> None:
    settings = CropSettings(around_face=1.0, smallest_face=80, largest_face=0.9, largest_zoom=2.0)
    _, _, side = draw_window(make([[10, 10, 18, 18]]), 100, settings, np.random.default_rng(0))
    assert side == pytest.approx(50)


def test_a_photograph_without_faces_can_be_cropped() -> None:
    crop = draw_crop(make([]), 64, CropSettings(around_face=1.0), np.random.default_rng(1))
    assert crop.boxes.shape == (0, 4)
    assert crop.pixels.shape == (64, 64, 3)
