"""Second-order statistics of features: Gram matrices within a layer, and the flow (FSP) between two layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.numerics import check_same_shape, float32_inside, weighted_mean


@float32_inside
def flow_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Mean over places of the product of every channel of one map with every channel of another.

    Yim et al. 2017, "A Gift from Knowledge Distillation", https://doi.org/10.1109/CVPR.2017.754, equation 1. Where the
    maps differ in size the larger is averaged down (the paper pools too).

    Args:
        first: (N, A, H, W).
        second: (N, B, H', W').

    Returns:
        (N, A, B).
    """
    height, width = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    a = F.adaptive_avg_pool2d(first, (height, width)).flatten(2)
    b = F.adaptive_avg_pool2d(second, (height, width)).flatten(2)
    return a @ b.transpose(1, 2) / (height * width)


@float32_inside
def gram_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared difference of the channels' Gram matrices (which channels fire together, wherever that is).

    Gatys et al. 2016, https://doi.org/10.1109/CVPR.2016.265, equations 3 and 4, used as knowledge: the FSP matrix of a
    layer with itself.

    Args:
        student: (N, C, H, W) after its adapter.
        teacher: (N, C, H', W'); the places need not agree; constants.
        weights: (N,) per-sample weights >= 0, or None.

    Returns:
        Scalar >= 0; 0 when the Gram matrices are equal.

    Raises:
        ValueError: the channels differ.
    """
    seen, known = flow_matrix(student, student), flow_matrix(teacher.detach(), teacher.detach())
    check_same_shape(seen, known, "Gram matrices (channels)")
    return weighted_mean((seen - known).square(), weights)


@float32_inside
def fsp_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
    """Mean squared difference of the flow-of-solution-procedure matrices between two layers.

    Yim et al. 2017, https://doi.org/10.1109/CVPR.2017.754, equations 1 and 2.

    Args:
        student: (earlier, later) maps (N, A, …) and (N, B, …) after their adapters.
        teacher: the same, with the same A and B; constants.
        weights: (N,) per-sample weights >= 0, or None.

    Returns:
        Scalar >= 0; 0 when the flow matrices are equal.

    Raises:
        ValueError: not two layers a side, or channels that differ.
    """
    if len(student) != 2 or len(teacher) != 2:
        raise ValueError(f"FSP compares two layers a side, got {len(student)} and {len(teacher)}; name two taps each")
    seen = flow_matrix(student[0], student[1])
    known = flow_matrix(teacher[0].detach(), teacher[1].detach())
    check_same_shape(seen, known, "FSP matrices (channels)")
    return weighted_mean((seen - known).square(), weights)


class GramLoss(nn.Module):
    """`gram_loss` as a module."""

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `gram_loss`."""
        return gram_loss(student, teacher, weights)


class FspLoss(nn.Module):
    """`fsp_loss` as a module."""

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
        """See `fsp_loss`."""
        return fsp_loss(student, teacher, weights)
