"""Attention transfer and channel-weighted pyramids: against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekd.distill.attention import (
    AttentionTransferLoss,
    ChannelWeightedPyramidLoss,
    attention_transfer_loss,
    channel_attention,
    channel_weighted_pyramid_loss,
)


def unit_map(photograph: np.ndarray, power: float) -> np.ndarray:
    flat = sum(np.abs(channel) ** power for channel in photograph).ravel()
    return flat / np.linalg.norm(flat)


def reference_transfer(student, teacher, power) -> float:
    pairs = zip(student, teacher, strict=True)
    return float(np.mean([np.sum((unit_map(a, power) - unit_map(b, power)) ** 2) for a, b in pairs]))


def reference_pyramid(student, teacher, temperature) -> float:
    levels = []
    for seen, known in zip(student, teacher, strict=True):
        count, channels = seen.shape[:2]
        total = 0.0
        for n in range(count):
            powers = np.array([np.exp(np.abs(known[n, c]).mean() / temperature) for c in range(channels)])
            for c in range(channels):
                weight = channels * powers[c] / powers.sum()
                total += weight * np.mean((seen[n, c] - known[n, c]) ** 2)
        levels.append(total / count / channels)
    return float(np.mean(levels))


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_transfer_agrees_with_loops_across_channels(agrees, draw, power: float) -> None:
    assert 0 < agrees(attention_transfer_loss, reference_transfer, draw(2, 3, 2, 3), draw(2, 5, 2, 3), power) <= 2


def test_transfer_is_zero_where_both_look_at_the_same_places(draw) -> None:
    teacher = torch.tensor(draw(2, 5, 3, 3))
    assert attention_transfer_loss(-3 * teacher[:, torch.randperm(5)], teacher).item() == pytest.approx(0.0, abs=1e-12)


def test_transfer_gradient_is_finite_on_an_empty_map() -> None:
    student = torch.zeros(1, 2, 2, 2, requires_grad=True)
    attention_transfer_loss(student, torch.ones(1, 2, 2, 2)).backward()
    assert torch.isfinite(student.grad).all()


def test_pyramid_agrees_with_loops(agrees, draw) -> None:
    student, teacher = (draw(2, 3, 4, 4), draw(2, 3, 2, 2)), (draw(2, 3, 4, 4), draw(2, 3, 2, 2))
    assert agrees(channel_weighted_pyramid_loss, reference_pyramid, student, teacher, 0.5) > 0
    assert channel_weighted_pyramid_loss([torch.ones(1, 2, 2, 2)], [torch.ones(1, 2, 2, 2)]).item() == 0.0


def test_channel_attention_has_mean_one_and_prefers_the_strong_channel(draw) -> None:
    features = torch.tensor(draw(4, 6, 3, 3))
    features[:, 2] *= 10
    attention = channel_attention(features)
    torch.testing.assert_close(attention.mean(dim=1), torch.ones(4, dtype=torch.float64))
    assert (attention.argmax(dim=1) == 2).all()


def test_modules_and_misuse(draw) -> None:
    student, teacher = torch.tensor(draw(2, 3, 2, 2)), torch.tensor(draw(2, 3, 2, 2))
    assert AttentionTransferLoss(4.0)(student, teacher) == attention_transfer_loss(student, teacher, 4.0)
    assert ChannelWeightedPyramidLoss(0.3)([student], [teacher]) == channel_weighted_pyramid_loss(
        [student], [teacher], 0.3
    )
    with pytest.raises(ValueError, match="places"):
        attention_transfer_loss(student, torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="N, C, H, W"):
        attention_transfer_loss(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="same levels"):
        channel_weighted_pyramid_loss([student], [])
    with pytest.raises(ValueError, match="above 0"):
        ChannelWeightedPyramidLoss(0.0)
