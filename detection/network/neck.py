"""Feature pyramid and context modules between backbone and heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from facekd.detection.network.blocks import ConvUnit


class FeaturePyramid(nn.Module):
    """Top-down feature pyramid (Lin et al. 2017, https://arxiv.org/abs/1612.03144).

    Departure from the paper: the 3x3 convolution after each sum is optional. It costs a third of the whole small
    detector, and the context module that follows smooths too.

    Args:
        widths: channels of the backbone's levels, finest first.
        channels: channels of every level of the pyramid.
        smooth: add the 3x3 convolutions.
    """

    def __init__(self, widths: Sequence[int], channels: int, *, smooth: bool = False) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvUnit(width, channels, 1) for width in widths)
        self.smooth = nn.ModuleList(ConvUnit(channels, channels) for _ in widths[1:]) if smooth else None

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels, finest first, each twice the side of the next, to as many of ``channels`` channels."""
        merged = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        for finer in range(len(merged) - 2, -1, -1):
            merged[finer] = merged[finer] + functional.interpolate(merged[finer + 1], scale_factor=2.0, mode="nearest")
            if self.smooth is not None:
                merged[finer] = self.smooth[finer](merged[finer])
        return merged


class ContextModule(nn.Module):
    """SSH's context module (Najibi et al. 2017, https://arxiv.org/abs/1708.03979): one, two and three 3x3 convolutions.

    Their outputs are half, a quarter and a quarter of the channels, concatenated; the two longer paths share their
    first convolution, so that the windows are 3, 5 and 7 cells wide.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"the context module splits its channels in half and quarters; {channels} is not 4 n")
        quarter = channels // 4
        self.near = ConvUnit(channels, channels // 2, activation=False)
        self.shared = ConvUnit(channels, quarter)
        self.middle = ConvUnit(quarter, quarter, activation=False)
        self.far = nn.Sequential(ConvUnit(quarter, quarter), ConvUnit(quarter, quarter, activation=False))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        shared = self.shared(features)
        return functional.relu(torch.cat([self.near(features), self.middle(shared), self.far(shared)], dim=1))
