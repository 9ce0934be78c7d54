"""Gram and FSP matrices: against loops over channels and places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekd.distill.gram import FspLoss, GramLoss, flow_matrix, fsp_loss, gram_loss


def products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The flow matrix of one photograph, both maps of one size."""
    result = np.zeros((len(first), len(second)))
    for a in range(len(first)):
        for b in range(len(second)):
            result[a, b] = np.mean(first[a] * second[b])
    return result


def halved(photograph: np.ndarray) -> np.ndarray:
    channels, height, width = photograph.shape
    return photograph.reshape(channels, height // 2, 2, width // 2, 2).mean(axis=(2, 4))


def reference_gram(student, teacher) -> float:
    pairs = zip(student, teacher, strict=True)
    return float(np.mean([np.mean((products(a, a) - products(b, b)) ** 2) for a, b in pairs]))


def reference_fsp(student, teacher) -> float:
    total = 0.0
    for n in range(len(student[0])):
        seen = products(halved(student[0][n]), student[1][n])
        known = products(halved(teacher[0][n]), teacher[1][n])
        total += np.mean((seen - known) ** 2)
    return total / len(student[0])


def test_gram_agrees_with_loops_whatever_the_places(agrees, draw) -> None:
    assert agrees(gram_loss, reference_gram, draw(2, 3, 4, 4), draw(2, 3, 2, 5)) > 0


def test_fsp_agrees_with_loops_and_pools_the_larger_map(agrees, draw) -> None:
    student, teacher = (draw(2, 3, 4, 4), draw(2, 2, 2, 2)), (draw(2, 3, 4, 4), draw(2, 2, 2, 2))
    assert agrees(fsp_loss, reference_fsp, student, teacher) > 0


def test_zero_when_equal_and_when_the_places_are_shuffled(draw) -> None:
    teacher, later = torch.tensor(draw(2, 3, 4, 4)), torch.tensor(draw(2, 5, 4, 4))
    order = torch.randperm(16)
    shuffled = teacher.flatten(2)[:, :, order].view_as(teacher)
    assert gram_loss(shuffled, teacher).item() == pytest.approx(0.0, abs=1e-12)
    together = (shuffled, later.flatten(2)[:, :, order].view_as(later))
    assert fsp_loss(together, (teacher, later)).item() == pytest.approx(0.0, abs=1e-12)
    assert fsp_loss((shuffled, later), (teacher, later)).item() > 1e-3


def test_flow_matrix_shape_modules_and_misuse(draw) -> None:
    first, second = torch.tensor(draw(2, 3, 4, 6)), torch.tensor(draw(2, 5, 2, 3))
    assert flow_matrix(first, second).shape == (2, 3, 5)
    assert GramLoss()(first, 2 * first) == gram_loss(first, 2 * first)
    assert FspLoss()((first, second), (2 * first, second)) == fsp_loss((first, second), (2 * first, second))
    with pytest.raises(ValueError, match="channels"):
        gram_loss(first, second)
    with pytest.raises(ValueError, match="two layers"):
        fsp_loss((first,), (first,))
