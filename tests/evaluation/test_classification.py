"""Confusion matrix and what is read off it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facekd.evaluation.classification import classification_figures, confusion_matrix

CLASSES = ("none", "mask", "incorrect")


def test_nothing() -> None:
    figures = classification_figures([], [], CLASSES)
    assert math.isnan(figures["accuracy"])
    assert all(math.isnan(value) for value in figures["recall"].values())
    assert figures["images"] == 0


def test_by_hand() -> None:
    truth = ["none", "none", "mask", "mask", "mask", "mask"]
    guess = ["none", "mask", "mask", "mask", "mask", "incorrect"]
    figures = classification_figures(truth, guess, CLASSES)
    assert figures["confusion"] == [[1, 1, 0], [0, 3, 1], [0, 0, 0]]
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["recall"]["none"] == 0.5
    assert figures["recall"]["mask"] == 0.75
    assert math.isnan(figures["recall"]["incorrect"])


def test_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    truth, guess = ([CLASSES[k] for k in rng.integers(0, 3, 50)] for _ in range(2))
    matrix = confusion_matrix(truth, guess, CLASSES)
    for i, true in enumerate(CLASSES):
        for j, other in enumerate(CLASSES):
            assert matrix[i, j] == sum(t == true and g == other for t, g in zip(truth, guess, strict=True))


def test_unknown_classes_are_named() -> None:
    with pytest.raises(ValueError, match="'hat'"):
        confusion_matrix(["hat"], ["none"], CLASSES)
    with pytest.raises(ValueError, match="one each"):
        confusion_matrix(["none"], [], CLASSES)
