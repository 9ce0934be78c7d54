"""Channel-wise distillation: against a loop over channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekd.distill.channel import ChannelWiseLoss, channel_wise_loss


def reference(student, teacher, temperature) -> float:
    count, channels = student.shape[:2]
    total = 0.0
    for n in range(count):
        for c in range(channels):
            p, q = np.exp(teacher[n, c] / temperature), np.exp(student[n, c] / temperature)
            p, q = p / p.sum(), q / q.sum()
            total += np.sum(p * (np.log(p) - np.log(q)))
    return temperature**2 * total / channels / count


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_agrees_with_loops(agrees, draw, temperature: float) -> None:
    assert agrees(channel_wise_loss, reference, draw(2, 3, 2, 3), draw(2, 3, 2, 3), temperature) > 0


def test_zero_up_to_an_offset_a_channel(draw) -> None:
    teacher = torch.tensor(draw(2, 3, 4, 4))
    assert channel_wise_loss(teacher + torch.tensor(draw(2, 3, 1, 1)), teacher).item() == pytest.approx(0.0, abs=1e-12)
    assert channel_wise_loss(teacher + torch.tensor(draw(2, 1, 4, 4)), teacher).item() > 1e-3


def test_module_and_misuse(draw) -> None:
    student, teacher = torch.tensor(draw(2, 3, 2, 2)), torch.tensor(draw(2, 3, 2, 2))
    assert ChannelWiseLoss(2.0)(student, teacher) == channel_wise_loss(student, teacher, 2.0)
    with pytest.raises(ValueError, match="N, C, H, W"):
        channel_wise_loss(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="above 0"):
        ChannelWiseLoss(0.0)
