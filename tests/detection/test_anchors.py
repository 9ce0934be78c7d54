"""The anchors, against a naive loop written from their description."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facekd.detection.anchors import SIDES, STRIDES, anchors


def naive(height: int, width: int) -> list[list[float]]:
    rows = []
    for stride, sides in zip(STRIDES, SIDES, strict=True):
        for i in range(math.ceil(height / stride)):
            for j in range(math.ceil(width / stride)):
                rows += [[(j + 0.5) * stride, (i + 0.5) * stride, side, side] for side in sides]
    return rows


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (320, 320), (100, 50), (1, 1)])
def test_against_the_naive_loop(size: tuple[int, int]) -> None:
    got = anchors(*size)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.array(naive(*size), np.float32))


def test_numbers_of_the_paper() -> None:
    assert len(anchors(640, 640)) == 16800  # (80² + 40² + 20²) cells, two anchors each
    assert STRIDES == (8, 16, 32)
    assert SIDES == ((16, 32), (64, 128), (256, 512))


def test_shared_and_read_only() -> None:
    assert anchors(64, 64) is anchors(64, 64)
    with pytest.raises(ValueError, match="read-only"):
        anchors(64, 64)[0, 0] = 1
    with pytest.raises(ValueError, match="positive"):
        anchors(0, 64)
