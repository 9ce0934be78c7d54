"""Where a network looks: spatial attention transfer, and pyramids weighted by the teacher's channel attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.numerics import check_same_shape, float32_inside, weighted_mean


def attention_map(features: Tensor, power: float = 2.0) -> Tensor:
    """Sum of the p-th powers of a map's channels, flattened, to unit length: (N, C, H, W) to (N, H * W)."""
    return F.normalize(features.abs().pow(power).sum(dim=1).flatten(1), dim=1)


@float32_inside
def attention_transfer_loss(
    student: Tensor, teacher: Tensor, power: float = 2.0, weights: Tensor | None = None
) -> Tensor:
    """Squared distance of the unit-length spatial attention maps.

    Zagoruyko & Komodakis 2017, "Paying More Attention to Attention", https://arxiv.org/abs/1612.03928, equation 2 with
    the map F_sum^p of section 3.1. The squared distance is taken where the paper writes the distance (as its own code
    does): its gradient is finite at 0. Channels are summed away, so no adapter is needed; the places must agree.

    Args:
        student: (N, C, H, W), any number of channels.
        teacher: (N, C', H, W); constants.
        power: p of the map; 2 in the paper. Higher looks at the strongest places only.
        weights: (N,) per-sample weights >= 0, or None.

    Returns:
        Scalar in 0..2; 0 when both look at the same places in the same proportions.

    Raises:
        ValueError: the maps differ in photographs or places; let an adapter resize the student's.
    """
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(
            f"attention transfer needs (N, C, H, W) maps, got {tuple(student.shape)}, {tuple(teacher.shape)}"
        )
    check_same_shape(student[:, 0], teacher[:, 0], "attention transfer (photographs and places)")
    difference = attention_map(student, power) - attention_map(teacher.detach(), power)
    return weighted_mean(difference.square().sum(dim=1), weights)


@float32_inside
def channel_attention(features: Tensor, temperature: float = 0.5) -> Tensor:
    """Channel attention C * softmax over channels of (mean absolute value / T): (N, C, H, W) to (N, C), mean 1.

    Yang et al. 2022, "Focal and Global Knowledge Distillation for Detectors", https://arxiv.org/abs/2111.11837,
    equations 4 and 6.
    """
    return features.shape[1] * F.softmax(features.abs().mean(dim=(2, 3)) / temperature, dim=1)


@float32_inside
def channel_weighted_pyramid_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float = 0.5
) -> Tensor:
    """Squared difference of pyramid features, each channel weighted by the teacher's attention to it.

    The channel part of Yang et al. 2022, https://arxiv.org/abs/2111.11837, equation 8 (without its foreground masks and
    spatial attention), as a mean over photographs, channels, places and levels.

    Args:
        student: levels (N, C, H_l, W_l) after their adapters.
        teacher: as many levels of the same shapes; constants.
        temperature: T of the attention; 0.5 in the paper. Lower trusts the strongest channels only.

    Returns:
        Scalar >= 0; 0 when the maps are equal.

    Raises:
        ValueError: no levels, or levels that differ in number or shape.
    """
    if not student or len(student) != len(teacher):
        raise ValueError(f"pyramids need the same levels, got {len(student)} and {len(teacher)}")
    losses = []
    for seen, known in zip(student, teacher, strict=True):
        check_same_shape(seen, known, "pyramid level")
        target = known.detach()
        weight = channel_attention(target, temperature)
        losses.append((weight * (seen - target).square().mean(dim=(2, 3))).mean())
    return torch.stack(losses).mean()


class AttentionTransferLoss(nn.Module):
    """`attention_transfer_loss` as a module."""

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `attention_transfer_loss`."""
        return attention_transfer_loss(student, teacher, self.power, weights)


class ChannelWeightedPyramidLoss(nn.Module):
    """`channel_weighted_pyramid_loss` as a module."""

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}; the paper uses 0.5")
        self.temperature = temperature

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """See `channel_weighted_pyramid_loss`."""
        return channel_weighted_pyramid_loss(student, teacher, self.temperature)
