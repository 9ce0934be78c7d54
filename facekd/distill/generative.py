"""Masked generative distillation (MGD): the student's masked features must suffice to make the teacher's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from facekd.distill.numerics import check_same_shape, float32_inside


def random_mask(features: Tensor, masked_share: float, generator: torch.Generator | None = None) -> Tensor:
    """Ones and zeros (N, 1, H, W), each place zero with probability `masked_share`, the same for all channels."""
    count, _, height, width = features.shape
    drawn = torch.rand((count, 1, height, width), generator=generator, device=features.device, dtype=torch.float32)
    return (drawn >= masked_share).to(features.dtype)


def masked_generative_loss(
    student: Tensor, teacher: Tensor, mask: Tensor, generation: Callable[[Tensor], Tensor]
) -> Tensor:
    """Mean squared difference between the teacher's features and those generated from the student's masked ones.

    Yang et al. 2022, equation 5 as a mean; see `MaskedGenerativeLoss`, which keeps the generator and draws the mask.

    Args:
        student: (N, C, H, W) after its adapter.
        teacher: the same shape; constants.
        mask: (N, 1, H, W) of ones and zeros; 0 hides a place.
        generation: makes features from what is left; it may run under autocast, the difference is taken in float32.

    Returns:
        Scalar >= 0; 0 when the generated features are the teacher's.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(student, teacher, "masked generative distillation")
    return _squared_difference(generation(student * mask), teacher)


class MaskedGenerativeLoss(nn.Module):
    """`masked_generative_loss` with a generator of its own and a random mask.

    Yang et al. 2022, "Masked Generative Distillation", https://arxiv.org/abs/2205.01529, equations 3 to 5: places of
    the student's map are hidden at random, two 3x3 convolutions with a ReLU between them restore the map, and the
    result is compared with the teacher's whole map. The paper sums the squares over channels and places and weighs them
    by 2e-5 (one-stage detectors, segmentation), 5e-7 (two-stage detectors) or 7e-5 (classification); the mean is taken
    here, so that one weight serves every size of map.

    The generator is registered: it is trained with the student, saved in checkpoints and never exported. Its
    convolutions may run under autocast; the difference is taken in float32.

    Args:
        channels: C of the maps.
        masked_share: lambda, the share of places that is hidden, 0..1; the authors have 0.65 for one-stage detectors,
            0.45 for two-stage ones, 0.75 for segmentation, and 0.15 for classification, where whole channels are hidden
            instead of places. The default of 0.5 is none of theirs.

    Shape:
        student and teacher (N, C, H, W), after the student's adapter; returns a scalar >= 0.
    """

    def __init__(self, channels: int, masked_share: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= masked_share < 1.0:
            raise ValueError(f"masked_share must lie in 0..1 (1 excluded), got {masked_share}")
        self.masked_share = masked_share
        self.generation = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss; `mask` (N, 1, H, W) of ones and zeros replaces the random one, `generator` draws it."""
        kept = random_mask(student, self.masked_share, generator) if mask is None else mask
        return masked_generative_loss(student, teacher, kept, self.generation)


@float32_inside
def _squared_difference(generated: Tensor, teacher: Tensor) -> Tensor:
    return (generated - teacher.detach()).square().mean()
