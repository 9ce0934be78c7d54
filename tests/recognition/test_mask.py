"""The mask head: order of the classes, probabilities, temperature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekd.errors import ModelError
from facekd.recognition.mask import MASK_STATUSES, MaskHead, MaskResult
from facekd.zoo import Calibration, find_model


@pytest.fixture
def batch(paint_face) -> np.ndarray:
    crops = np.zeros((3, 112, 112, 3), np.uint8)
    for crop, status in zip(crops, MASK_STATUSES, strict=True):
        paint_face(crop, 0, 0, 112, mask=status)
    return crops


def test_statuses_in_their_order(fake_zoo: Path, batch: np.ndarray) -> None:
    assert MASK_STATUSES == ("none", "mask", "incorrect")
    head = MaskHead(threads=1)
    results = head.predict(batch)
    assert [result.status for result in results] == list(MASK_STATUSES)
    assert all(0.9 < result.score <= 1 for result in results)
    assert head.predict(batch[:0]) == []
    many = head.predict(np.concatenate([batch] * 15))
    assert [result.status for result in many] == list(MASK_STATUSES) * 15


def test_temperature_softens_as_the_formula_says(fake_zoo: Path, batch: np.ndarray) -> None:
    record = find_model("mask")
    logits = np.array([[0.0, -20, -40]])
    for temperature in (1.0, 25.0):
        head = MaskHead(record.model_copy(update={"calibration": Calibration(temperature=temperature)}), threads=1)
        expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        np.testing.assert_allclose(head.probabilities(batch[:1]), expected, atol=2e-3)


def test_json_form() -> None:
    assert MaskResult("mask", 0.98765432).to_dict() == {"status": "mask", "score": 0.9877}


def test_refusals(fake_zoo: Path, batch: np.ndarray) -> None:
    head = MaskHead(threads=1)
    with pytest.raises(ValueError, match="112"):
        head.predict(np.zeros((1, 64, 64, 3), np.uint8))
    head._session.run = lambda feeds: [np.full((1, 3), np.nan, np.float32)]  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="logits"):
        head.predict(batch[:1])
