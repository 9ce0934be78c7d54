"""Masked generative distillation (MGD): the student's masked features must suffice to make the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facekd.distill.numerics import check_same_shape, float32_inside


def random_mask(features: Tensor, masked_share: float, generator: torch.Generator | None = None) -> Tensor:
    """Ones and zeros (N, 1, H, W), each place zero with probability `masked_share`, the same for all channels."""
    count, _, height, width = features.shape
    drawn = torch.rand((count, 1, height, width), generator=generator, device=features.device, dtype=torch.float32)
    return (drawn >= masked_share).to(features.dtype)


class MaskedGenerativeLoss(nn.Module):
    """Mean squared difference between the teacher's features and those generated from the student's masked ones.

    Yang et al. 2022, "Masked Generative Distillation", https://arxiv.org/abs/2205.01529, equations 3 to 5: places of
    the student's map are hidden at random, two 3x3 convolutions with a ReLU between them restore the map, and the
    result is compared with the teacher's whole map. The paper sums the squares over channels and places and weighs them
    by 2e-5 (detection) or 7e-5 (classification); the mean is taken here, so that one weight serves every size of map.

    The generator is registered: it is trained with the student, saved in checkpoints and never exported. Its
    convolutions may run under autocast; the difference is taken in float32.

    Args:
        channels: C of the maps.
        masked_share: lambda, the share of places that is hidden, 0..1; 0.5 for one-stage detectors and 0.65 for
            two-stage in the paper (0.15 for classification of channels).

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
        check_same_shape(student, teacher, "masked generative distillation")
        kept = random_mask(student, self.masked_share, generator) if mask is None else mask
        return _squared_difference(self.generation(student * kept), teacher)


@float32_inside
def _squared_difference(generated: Tensor, teacher: Tensor) -> Tensor:
    return (generated - teacher.detach()).square().mean()
