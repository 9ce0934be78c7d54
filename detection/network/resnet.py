"""ResNet with bottleneck units: the backbone of a teacher, too large for a door's processor."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as functional
from torch import Tensor, nn

from facekd.detection.network.blocks import ConvUnit

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1 to narrow, 3x3, 1x1 to four times as wide, added to the input; the stride is in the 3x3.

    Args:
        channels: of the input.
        width: of the narrow middle; the output has four times as many.
        stride: of the unit.
    """

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out = EXPANSION * width
        self.reduce = ConvUnit(channels, width, 1)
        self.middle = ConvUnit(width, width, 3, stride)
        self.expand = ConvUnit(width, out, 1, activation=False)
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else ConvUnit(channels, out, 1, stride, activation=False)
        for layer in self.expand:
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.zeros_(layer.weight)  # each unit starts as its shortcut (Goyal et al. 2017)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 4 width, H / stride, W / stride)."""
        return functional.relu(self.shortcut(features) + self.expand(self.middle(self.reduce(features))))


class ResNet(nn.Module):
    """ResNet (He et al. 2016, https://arxiv.org/abs/1512.03385, table 1), levels C3 to C5: strides 8, 16 and 32.

    The picture shrinks by four before the first group: a 7x7 convolution of stride 2 and a 3x3 maximum.

    Args:
        depths: units in each of the four groups; ResNet50 has 3, 4, 6, 3.
        width: narrow middle of the first group's units, doubled in each further group.
    """

    def __init__(self, depths: Sequence[int] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvUnit(3, width, 7, 2), nn.MaxPool2d(3, 2, 1))
        groups, channels = [], width
        for number, depth in enumerate(depths):
            units = []
            for unit in range(depth):
                units.append(Bottleneck(channels, width << number, 2 if number and not unit else 1))
                channels = EXPANSION * (width << number)
            groups.append(nn.Sequential(*units))
        self.groups = nn.ModuleList(groups)
        self.widths = tuple(EXPANSION * (width << number) for number in range(1, 4))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Pictures (N, 3, H, W), sides divisible by 32, to features at strides 8, 16 and 32."""
        features = self.groups[0](self.stem(pictures))
        levels = []
        for group in list(self.groups)[1:]:
            features = group(features)
            levels.append(features)
        return levels
