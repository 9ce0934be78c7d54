"""Box and landmark coding: decoding undoes encoding, and codes are what the paper says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facekd.detection.anchors import anchors
from facekd.detection.codec import decode_boxes, decode_landmarks, encode_boxes, encode_landmarks

PRIORS = anchors(320, 256)


@st.composite
def boxes_and_anchors(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count = draw(st.integers(0, 8))
    chosen = np.array(draw(st.lists(st.integers(0, len(PRIORS) - 1), min_size=count, max_size=count)), int)
    corner = draw(hnp.arrays(np.float64, (count, 2), elements=st.floats(-400, 400)))
    sides = draw(hnp.arrays(np.float64, (count, 2), elements=st.floats(1, 900)))
    return np.concatenate([corner, corner + sides], axis=1), PRIORS[chosen]


@given(boxes_and_anchors())
def test_boxes_there_and_back(case: tuple[np.ndarray, np.ndarray]) -> None:
    boxes, priors = case
    np.testing.assert_allclose(decode_boxes(encode_boxes(boxes, priors), priors), boxes, rtol=1e-5, atol=1e-3)


@given(hnp.arrays(np.float64, (4, 5, 2), elements=st.floats(-1000, 1000)), st.integers(0, len(PRIORS) - 4))
def test_landmarks_there_and_back(points: np.ndarray, first: int) -> None:
    priors = PRIORS[first : first + 4]
    codes = encode_landmarks(points, priors)
    assert codes.shape == (4, 10)
    np.testing.assert_allclose(decode_landmarks(codes, priors), points, rtol=1e-6, atol=1e-3)


def test_known_codes() -> None:
    prior = np.array([[100, 60, 32, 32]], np.float32)
    assert encode_boxes([[84.0, 44, 116, 76]], prior).tolist() == [[0, 0, 0, 0]]  # the anchor itself
    # 3.2 px right is one tenth of the side, over variance 0.1; twice as wide is log 2 over variance 0.2.
    shifted = encode_boxes([[100 + 3.2 - 32, 44, 100 + 3.2 + 32, 76]], prior)
    np.testing.assert_allclose(shifted, [[1, 0, np.log(2) / 0.2, 0]], atol=1e-6)
    points = np.array([[[100, 60], [103.2, 60], [100, 66.4], [96.8, 60], [100, 60]]])
    np.testing.assert_allclose(encode_landmarks(points, prior), [[0, 0, 1, 0, 0, 2, -1, 0, 0, 0]], atol=1e-6)


def test_batches_and_empty() -> None:
    codes = np.random.default_rng(0).normal(size=(3, len(PRIORS), 4)).astype(np.float32)
    together = decode_boxes(codes, PRIORS)
    assert together.shape == codes.shape
    np.testing.assert_array_equal(together[1], decode_boxes(codes[1], PRIORS))
    assert decode_landmarks(np.zeros((2, len(PRIORS), 10), np.float32), PRIORS).shape == (2, len(PRIORS), 5, 2)
    assert encode_boxes(np.zeros((0, 4)), PRIORS[:0]).shape == (0, 4)
    assert decode_landmarks(np.zeros((0, 10)), PRIORS[:0]).shape == (0, 5, 2)


def test_absurd_codes_stay_finite() -> None:
    boxes = decode_boxes(np.full((1, 4), 1e4, np.float32), PRIORS[:1])
    assert np.isfinite(boxes).all()
    assert boxes[0, 2] - boxes[0, 0] == pytest.approx(64 * 16, rel=1e-4)


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [5, 9, 8, 2], [np.nan, 0, 1, 1]])
def test_boxes_without_area_are_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match="x2 > x1"):
        encode_boxes([box], PRIORS[:1])
