"""PKD: pyramid features compared by Pearson correlation, blind to each channel's scale and offset."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facekd.distill.numerics import check_same_shape, float32_inside


def _standardise(features: Tensor) -> Tensor:
    """Each channel to mean 0 and variance 1 over photographs and places; (N, C, H, W) to (C, N * H * W)."""
    rows = features.transpose(0, 1).flatten(1)
    centred = rows - rows.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-12).sqrt()


@float32_inside
def pearson_loss(student: Sequence[Tensor] | Tensor, teacher: Sequence[Tensor] | Tensor) -> Tensor:
    """One minus the Pearson correlation of each channel with the teacher's, mean over channels and levels.

    Cao et al. 2022, "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient",
    https://arxiv.org/abs/2207.02039, equations 2 to 4: half the mean squared difference of the features standardised a
    channel over the batch and its places equals 1 - r. The standardisation is each side's own and has nothing learnt,
    so no BatchNorm is shared.

    Args:
        student: one map (N, C, H, W) or a sequence of levels, after their adapters.
        teacher: the same shapes; constants.

    Returns:
        Scalar in 0..2; 0 when each channel is the teacher's times a positive number plus a constant.

    Raises:
        ValueError: no levels, or levels that differ in number or shape.
    """
    students = [student] if isinstance(student, Tensor) else list(student)
    teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
    if not students or len(students) != len(teachers):
        raise ValueError(f"pyramids need the same levels, got {len(students)} and {len(teachers)}")
    losses = []
    for seen, known in zip(students, teachers, strict=True):
        check_same_shape(seen, known, "pyramid level")
        losses.append((_standardise(seen) - _standardise(known.detach())).square().mean() / 2)
    return torch.stack(losses).mean()


class PearsonLoss(nn.Module):
    """`pearson_loss` as a module."""

    def forward(self, student: Sequence[Tensor] | Tensor, teacher: Sequence[Tensor] | Tensor) -> Tensor:
        """See `pearson_loss`."""
        return pearson_loss(student, teacher)
