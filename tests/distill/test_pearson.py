"""PKD: one minus NumPy's correlation coefficient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekd.distill.pearson import PearsonLoss, pearson_loss


def reference(student, teacher) -> float:
    levels = []
    for seen, known in zip(student, teacher, strict=True):
        channels = range(seen.shape[1])
        levels.append(np.mean([1 - np.corrcoef(seen[:, c].ravel(), known[:, c].ravel())[0, 1] for c in channels]))
    return float(np.mean(levels))


def test_is_one_minus_the_correlation_of_each_channel(agrees, draw) -> None:
    student, teacher = (draw(2, 3, 4, 4), draw(2, 2, 2, 2)), (draw(2, 3, 4, 4), draw(2, 2, 2, 2))
    assert 0 < agrees(pearson_loss, reference, student, teacher) < 2


def test_zero_for_any_positive_scale_and_offset_a_channel_and_two_for_a_negative_one(draw) -> None:
    teacher = torch.tensor(draw(3, 4, 5, 5))
    scale, offset = torch.tensor(draw(1, 4, 1, 1)).exp(), torch.tensor(draw(1, 4, 1, 1))
    assert pearson_loss(scale * teacher + offset, teacher).item() == pytest.approx(0.0, abs=1e-9)
    assert pearson_loss(-scale * teacher, teacher).item() == pytest.approx(2.0, abs=1e-9)


def test_a_dead_channel_gives_no_nan() -> None:
    student = torch.zeros(2, 1, 2, 2, requires_grad=True)
    loss = PearsonLoss()(student, torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert torch.isfinite(student.grad).all()


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="same levels"):
        pearson_loss([torch.zeros(1, 1, 2, 2)], [])
    with pytest.raises(ValueError, match="adapter"):
        pearson_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2))
