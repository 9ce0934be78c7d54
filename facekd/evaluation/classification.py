"""Accuracy, recall of each class, and the confusion matrix of a classifier such as the mask head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Counts (C, C): row by the true class, column by the predicted one, in the order of `classes`.

    Raises:
        ValueError: numbers differ, or a name is none of the classes.
    """
    if len(truth) != len(predicted):
        raise ValueError(f"{len(truth)} labels but {len(predicted)} predictions: wanted one each")
    number = {name: index for index, name in enumerate(classes)}
    unknown = sorted({*truth, *predicted} - number.keys())
    if unknown:
        raise ValueError(f"unknown class {', '.join(map(repr, unknown))}; the classes are {', '.join(classes)}")
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for true, guess in zip(truth, predicted, strict=True):
        matrix[number[true], number[guess]] += 1
    return matrix


def classification_figures(truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """The figures of `facekd evaluate mask`, as its JSON has them.

    Returns:
        ``{"accuracy", "recall": {class: …}, "confusion": [[…]], "classes", "images"}``; NaN where nothing can be said
        (no picture, or none of that class).
    """
    matrix = confusion_matrix(truth, predicted, classes)
    counts = matrix.sum(axis=1)
    right = matrix.diagonal()
    recall = {name: float(right[k] / counts[k]) if counts[k] else float("nan") for k, name in enumerate(classes)}
    return {
        "accuracy": float(right.sum() / counts.sum()) if counts.sum() else float("nan"),
        "recall": recall,
        "confusion": matrix.tolist(),
        "classes": list(classes),
        "images": int(counts.sum()),
    }
