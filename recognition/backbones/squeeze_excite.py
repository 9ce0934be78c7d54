"""Squeeze and excitation: channels weighed by a small network of their means (Hu et al. 2018, figure 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Multiply each channel by a factor in 0..1 that depends on the means of all channels.

    The two layers are linear layers, not 1x1 convolutions: the same arithmetic on (N, C) means, and no path through
    oneDNN's narrow 1x1 convolutions (see ``BasicBlock``).

    Args:
        channels: of the map.
        squeezed: width of the bottleneck; a sixteenth of the channels in the paper.
        activation: between the layers; ReLU in the paper.
    """

    def __init__(self, channels: int, squeezed: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, squeezed)
        self.activation = activation or nn.ReLU(inplace=True)
        self.expand = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        factors = torch.sigmoid(self.expand(self.activation(self.reduce(x.mean((2, 3))))))
        return x * factors[:, :, None, None]
