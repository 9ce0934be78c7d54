"""Feature imitation: against loops, for each power and normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekd.distill.mimic import MimicLoss, mimic_loss


def normalised(photograph: np.ndarray, how: str) -> np.ndarray:
    if how == "channel":
        result = photograph.copy()
        for place in np.ndindex(photograph.shape[1:]):
            column = photograph[(slice(None), *place)]
            result[(slice(None), *place)] = column / np.linalg.norm(column)
        return result
    if how == "standard":
        return (photograph - photograph.mean()) / np.sqrt(photograph.var() + 1e-6)
    return photograph


def reference(student, teacher, power, how) -> float:
    total = 0.0
    for seen, known in zip(student, teacher, strict=True):
        total += np.mean(np.abs(normalised(seen, how) - normalised(known, how)) ** power)
    return total / len(student)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("how", ["none", "channel", "standard"])
def test_agrees_with_loops(agrees, draw, power: int, how: str) -> None:
    assert agrees(mimic_loss, reference, draw(2, 3, 2, 3), draw(2, 3, 2, 3), power, how) > 0


def test_zero_when_equal_and_blind_to_what_is_normalised_away(draw) -> None:
    teacher = torch.tensor(draw(2, 3, 4, 4))
    for how in ("none", "channel", "standard"):
        assert mimic_loss(teacher, teacher, 2, how).item() == 0.0
    assert mimic_loss(5 * teacher, teacher, 2, "channel").item() == pytest.approx(0.0, abs=1e-12)
    assert mimic_loss(5 * teacher + 2, teacher, 2, "standard").item() == pytest.approx(0.0, abs=1e-9)
    assert mimic_loss(5 * teacher, teacher, 2, "none").item() > 1.0


def test_module_weights_and_misuse(draw) -> None:
    student, teacher = torch.tensor(draw(2, 3, 2, 2)), torch.tensor(draw(2, 3, 2, 2))
    weights = torch.tensor([0.0, 1.0])
    assert MimicLoss(1, "channel")(student, teacher, weights).item() == pytest.approx(
        mimic_loss(student[1:], teacher[1:], 1, "channel").item()
    )
    with pytest.raises(ValueError, match="power must be 1 or 2"):
        MimicLoss(3)
    with pytest.raises(ValueError, match="none, channel or standard"):
        MimicLoss(2, "batch")
    with pytest.raises(ValueError, match="adapter"):
        mimic_loss(student, teacher[:, :2])
