"""IR-ResNet: the residual network of ArcFace, whose first convolution and stem keep the crop's full resolution.

Deng et al. 2019 (https://arxiv.org/abs/1801.07698), section 2.2.2; the improved residual unit is that of Han et al.
2017. Modules bear the names of the field's common torch port, so that its public checkpoints fit as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from facekd.recognition.backbones.squeeze_excite import SqueezeExcite

UNITS: Mapping[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
}
WIDTHS = (64, 128, 256, 512)


class ImprovedUnit(nn.Module):
    """BatchNorm, convolution, BatchNorm, PReLU, convolution (which carries the stride), BatchNorm; and a shortcut.

    Nothing follows the sum, so the shortcut runs from the stem to the head undisturbed.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.excite: nn.Module = SqueezeExcite(outputs, max(outputs // 16, 1)) if squeeze else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.excite(self.bn3(self.conv2(y))) + self.downsample(x)


class IRResNet(nn.Module):
    """Aligned crop to embedding: a 3x3 stem at full size, four groups of improved units, BN-dropout-FC-BN head.

    A crop smaller than ``size``, as while sizes grow, has its last map enlarged to the one that the head was made for.

    Args:
        dimension: length of the embedding.
        depth: 18, 34, 50 or 100: the units of each group as published.
        squeeze: squeeze and excitation in every unit (SE-IR, reduction 16).
        dropout: share of the last map that is set to 0 in training; 0.4 in the paper, for millions of photographs.
        widths: channels of the four groups; the stem has those of the first. At least 16 (see ``BasicBlock``).
        units: units of the four groups instead of those of ``depth``.
        size: pixels of a full crop's side.

    Raises:
        ValueError: an unknown depth without ``units``, or a group narrower than 16 channels.
    """

    def __init__(
        self,
        dimension: int = 512,
        depth: int = 100,
        squeeze: bool = False,
        dropout: float = 0.0,
        widths: Sequence[int] = WIDTHS,
        units: Sequence[int] | None = None,
        size: int = 112,
    ) -> None:
        super().__init__()
        if units is None and depth not in UNITS:
            raise ValueError(f"depth is {depth}; known: {', '.join(map(str, UNITS))}; or name the units of each group")
        if min(widths) < 16:
            raise ValueError(f"a group needs at least 16 channels, got widths {tuple(widths)}")
        counts = UNITS[depth] if units is None else units
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        channels = widths[0]
        groups: list[nn.Module] = []
        for width, count in zip(widths, counts, strict=True):
            group = [ImprovedUnit(channels, width, 2, squeeze)]
            group += [ImprovedUnit(width, width, 1, squeeze) for _ in range(count - 1)]
            groups.append(nn.Sequential(*group))
            channels = width
        self.layer1, self.layer2, self.layer3, self.layer4 = groups
        self.map_size = -(-size // 16)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels * self.map_size**2, dimension)
        self.features = nn.BatchNorm1d(dimension)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, ImprovedUnit):
                nn.init.zeros_(module.bn3.weight)  # units start as identities: a hundred layers learn at once

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, size, size) normalised crops -> (N, dimension), not of unit length."""
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        if x.shape[-1] != self.map_size:
            x = F.interpolate(x, size=(self.map_size, self.map_size), mode="bilinear", align_corners=False)
        return self.features(self.fc(self.dropout(x).flatten(1)))
