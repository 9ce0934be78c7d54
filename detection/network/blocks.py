"""Building blocks that backbone, neck and heads share."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn


class ConvUnit(nn.Sequential):
    """Convolution without bias, batch normalisation and, unless told not to, ReLU.

    ReLU rather than LeakyReLU or PReLU: it trains faster, can be done in place, and ONNX Runtime fuses it.

    Args:
        channels_in, channels_out: channels.
        kernel: side of the square kernel.
        stride: pixels between outputs; padding is such that an input side divisible by it shrinks by exactly it.
        activation: end with ReLU.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, *, activation: bool = True
    ) -> None:
        padding = kernel // 2 if kernel % 2 else (kernel - stride) // 2
        layers: list[nn.Module] = [
            nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(channels_out),
        ]
        if activation:
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions with a narrow middle, added to their input (He et al. 2016, https://arxiv.org/abs/1512.03385).

    Dense, not depthwise: in the backward pass on a processor a depthwise layer takes several times longer than its
    multiply-adds say, and the number of photographs seen decides how good the detector gets.
    """

    def __init__(self, channels: int, middle: int) -> None:
        super().__init__()
        self.reduce = ConvUnit(channels, middle)
        self.expand = ConvUnit(middle, channels, activation=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return functional.relu(features + self.expand(self.reduce(features)))
