"""Augmentation: repeatable, the right shape, and each change does what it says."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.recognition.data.augment import Augmentation, augment
from facekd.recognition.data.drawn_masks import draw_random_mask
from facekd.recognition.data.drawn_sunglasses import draw_random_sunglasses

NOTHING = dict.fromkeys(Augmentation.model_fields, 0.0)


def crop(seed: int = 0) -> np.ndarray:
    smooth = np.linspace(30, 220, 112)[None, :, None] * np.ones((112, 1, 3))
    return (smooth + np.random.default_rng(seed).normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


def test_nothing_changes_nothing() -> None:
    got = augment(crop(), 112, Augmentation(**NOTHING), np.random.default_rng(0))
    np.testing.assert_array_equal(got, crop())


def test_flip_alone_is_a_mirror() -> None:
    got = augment(crop(), 112, Augmentation(**{**NOTHING, "flip": 1.0}), np.random.default_rng(0))
    np.testing.assert_array_equal(got, crop()[:, ::-1])


def test_shift_and_rotation_stay_within_their_bounds() -> None:
    dot = np.zeros((112, 112, 3), np.uint8)
    dot[54:58, 54:58] = 255
    settings = Augmentation(**{**NOTHING, "shift": 0.05, "rotate_degrees": 5.0})
    for seed in range(20):
        got = augment(dot, 112, settings, np.random.default_rng(seed))[..., 0].astype(float)
        y, x = (np.indices(got.shape) * got).sum((1, 2)) / got.sum()
        assert abs(x - 55.5) <= 0.05 * 112 + 0.5
        assert abs(y - 55.5) <= 0.05 * 112 + 0.5


@pytest.mark.parametrize("size", [64, 112])
def test_everything_at_once_gives_a_crop_and_repeats(size: int) -> None:
    settings = Augmentation(**{name: 1.0 for name in NOTHING if name not in ("shift", "zoom", "light")})
    first, again = (augment(crop(), size, settings, np.random.default_rng(4)) for _ in range(2))
    assert first.shape == (size, size, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)


def test_grey_has_no_colour() -> None:
    colourful = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    got = augment(colourful, 112, Augmentation(**{**NOTHING, "grey": 1.0}), np.random.default_rng(0))
    assert (got == got[..., :1]).all()


@pytest.mark.parametrize("name", ["low_resolution", "blur", "jpeg"])
def test_degradations_remove_detail(name: str) -> None:
    noisy = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    got = augment(noisy, 112, Augmentation(**{**NOTHING, name: 1.0}), np.random.default_rng(2))
    assert not np.array_equal(got, noisy)
    if name != "jpeg":
        assert got.std() < 0.8 * noisy.std()


def test_drawn_mask_covers_mouth_and_nose_and_spares_the_eyes() -> None:
    plain = np.full((112, 112, 3), 120, np.uint8)
    for seed in range(30):
        masked = draw_random_mask(plain, np.random.default_rng(seed)).astype(int)
        changed = np.abs(masked - 120).sum(2) > 0
        assert changed[85:100, 45:67].mean() > 0.8, seed
        assert not changed[:50, 30:82].any(), seed
    assert (plain == 120).all()  # the crop handed in is not touched


def test_sunglasses_cover_the_eyes_and_leave_the_mouth() -> None:
    before = crop()
    drawn = [draw_random_sunglasses(before, np.random.default_rng(seed)) for seed in range(12)]
    np.testing.assert_array_equal(before, crop())
    for glasses in drawn:
        assert (glasses[78:] == before[78:]).all()  # mouth and chin
        for x, y in ((38, 52), (73, 52)):  # the eyes of the template
            assert glasses[y - 1 : y + 2, x - 1 : x + 2].mean() < before[y - 1 : y + 2, x - 1 : x + 2].mean()
    assert len({glasses.tobytes() for glasses in drawn}) == 12


def test_sunglasses_are_drawn_as_often_as_asked() -> None:
    settings = Augmentation(**{**NOTHING, "sunglasses": 0.5})
    rng = np.random.default_rng(0)
    changed = [bool((augment(crop(), 112, settings, rng) != crop()).any()) for _ in range(60)]
    assert 15 < sum(changed) < 45
