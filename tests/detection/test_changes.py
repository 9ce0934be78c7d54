"""Changes of light, sharpness and cover."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.detection.data.changes import ChangeSettings, change, draw_light, put_cover, put_mask
from facekd.detection.data.crops import Crop

NOTHING = dict.fromkeys(ChangeSettings.model_fields, 0.0)
BOX = np.array([20, 10, 80, 90], np.float32)
POINTS = np.array([[37, 40], [63, 40], [50, 55], [40, 70], [60, 70]], np.float32)


def make_crop(ignore: bool = False) -> Crop:
    pixels = np.random.default_rng(0).integers(60, 200, (100, 100, 3)).astype(np.uint8)
    return Crop(pixels, BOX[None], POINTS[None], np.array([ignore]), np.ones(1, np.float32))


def test_nothing_asked_changes_nothing() -> None:
    crop = make_crop()
    changed = change(crop, ChangeSettings(**NOTHING), np.random.default_rng(0))
    np.testing.assert_array_equal(changed.pixels, crop.pixels)


@pytest.mark.parametrize("name", sorted(ChangeSettings.model_fields))
def test_each_change_changes_pixels_only_and_repeats_with_its_seed(name: str) -> None:
    crop = make_crop()
    before = crop.pixels.copy()
    settings = ChangeSettings(**{**NOTHING, name: 1.0})
    changed = change(crop, settings, np.random.default_rng(5))
    again = change(crop, settings, np.random.default_rng(5))
    assert changed.pixels.dtype == np.uint8
    assert changed.pixels.shape == before.shape
    assert (changed.pixels != before).any()
    np.testing.assert_array_equal(changed.pixels, again.pixels)
    np.testing.assert_array_equal(crop.pixels, before)
    np.testing.assert_array_equal(changed.boxes, crop.boxes)


@pytest.mark.parametrize("seed", range(10))
def test_a_mask_covers_the_mouth_and_leaves_the_eyes(seed: int) -> None:
    pixels = make_crop().pixels
    before = pixels.copy()
    put_mask(pixels, BOX, POINTS, np.random.default_rng(seed))
    changed = (pixels != before).any(axis=2)
    mouth = POINTS[3:].mean(axis=0).astype(int)
    assert changed[mouth[1] - 2 : mouth[1] + 3, mouth[0] - 2 : mouth[0] + 3].mean() > 0.9
    for x, y in POINTS[:2].astype(int):
        assert not changed[y - 2 : y + 2, x - 2 : x + 3].any()
    assert not changed[:, :15].any()


@pytest.mark.parametrize("seed", range(10))
def test_a_cover_hides_a_part_of_the_face_and_nothing_else(seed: int) -> None:
    pixels = make_crop().pixels
    before = pixels.copy()
    put_cover(pixels, BOX, np.random.default_rng(seed))
    changed = (pixels != before).any(axis=2)
    assert 0.2 < changed[10:90, 20:80].mean() < 0.55
    changed[10:90, 20:80] = False
    assert not changed.any()


def test_ignored_faces_are_not_covered() -> None:
    crop = make_crop(ignore=True)
    changed = change(crop, ChangeSettings(**{**NOTHING, "mask": 1.0, "cover": 1.0}), np.random.default_rng(0))
    np.testing.assert_array_equal(changed.pixels, crop.pixels)


@pytest.mark.parametrize("seed", range(5))
def test_light_never_turns_bright_into_dark(seed: int) -> None:
    table = draw_light(np.random.default_rng(seed)).astype(int)
    assert table.shape == (1, 256, 3)
    assert (np.diff(table, axis=1) >= 0).all()
