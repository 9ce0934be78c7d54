"""Imitation of feature maps: L1 or L2, plain or after a fixed normalisation."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.numerics import check_same_shape, float32_inside, weighted_mean

Normalisation = Literal["none", "channel", "standard"]


def normalise_features(features: Tensor, how: Normalisation) -> Tensor:
    """Normalise a map without anything learnt, so that student and teacher can never share statistics.

    Args:
        features: (N, C, H, W) or (N, C).
        how: ``none``; ``channel``: the channels of each place to unit length (what is there, not how strongly);
            ``standard``: each photograph's numbers to mean 0 and variance 1 (takes a difference of scale away).

    Returns:
        The same shape.

    Raises:
        ValueError: an unknown way.
    """
    if how == "none":
        return features
    if how == "channel":
        return F.normalize(features, dim=1)
    if how == "standard":
        flat = features.flatten(1)
        centred = flat - flat.mean(dim=1, keepdim=True)
        spread = centred.square().mean(dim=1, keepdim=True)
        return (centred / (spread + 1e-6).sqrt()).view_as(features)
    raise ValueError(f"unknown normalisation {how!r}; choose none, channel or standard")


@float32_inside
def mimic_loss(
    student: Tensor,
    teacher: Tensor,
    power: Literal[1, 2] = 2,
    normalise: Normalisation = "none",
    weights: Tensor | None = None,
) -> Tensor:
    """Mean absolute or squared difference of two feature maps of one shape.

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", https://arxiv.org/abs/1412.6550, equation 3 (power 2,
    without its one half and as a mean, so that one weight serves every size of map). The regressor of the paper is the
    adapter.

    Args:
        student: (N, C, H, W) or (N, C), after its adapter.
        teacher: the same shape; constants.
        power: 1 for the absolute difference (kinder to outliers), 2 for the squared one.
        normalise: applied to both sides, see `normalise_features`.
        weights: (N,) per-sample weights >= 0, or None.

    Returns:
        Scalar >= 0; 0 when the (normalised) maps are equal.

    Raises:
        ValueError: the shapes differ, or an unknown power or normalisation.
    """
    check_same_shape(student, teacher, "feature imitation")
    if power not in (1, 2):
        raise ValueError(f"power must be 1 or 2, got {power}")
    difference = normalise_features(student, normalise) - normalise_features(teacher.detach(), normalise)
    return weighted_mean(difference.abs() if power == 1 else difference.square(), weights)


class MimicLoss(nn.Module):
    """`mimic_loss` as a module."""

    def __init__(self, power: Literal[1, 2] = 2, normalise: Normalisation = "none") -> None:
        super().__init__()
        if power not in (1, 2):
            raise ValueError(f"power must be 1 or 2, got {power}")
        normalise_features(torch.zeros(1, 1), normalise)
        self.power, self.normalise = power, normalise

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `mimic_loss`."""
        return mimic_loss(student, teacher, self.power, self.normalise, weights)
