"""Networks for the mask-status head, by name: our own small one, two published mobile ones, and ResNets as teachers.

All take aligned crops (N, 3, 112, 112) and give three logits. The published ones are written here from their papers,
with the number of classes and the width as arguments; at 1000 classes and width 1 they have the papers' parameters (a
test).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.recognition.backbones.dense_resnet import DenseResNet
from facekd.recognition.mask_network import MaskNetwork

CLASSES = 3


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that loses at most a tenth (MobileNetV2's rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _conv(inputs: int, outputs: int, kernel: int, stride: int, activation: nn.Module, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        activation,
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 5 left; a projection where shapes differ)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(inputs, outputs, 3, stride, nn.ReLU(inplace=True)), _conv(outputs, outputs, 3, 1, nn.Identity())
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = _conv(inputs, outputs, 1, stride, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return F.relu(self.layers(x) + self.shortcut(x))


class ResNetMask(nn.Module):
    """ResNet of basic blocks (He et al. 2016, https://arxiv.org/abs/1512.03385, table 1; ResNet-18 by default).

    Args:
        widths: channels of the four groups.
        blocks: basic blocks in each.
        classes: logits.
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        blocks: tuple[int, int, int, int] = (2, 2, 2, 2),
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, widths[0], 7, 2, nn.ReLU(inplace=True)), nn.MaxPool2d(3, 2, 1))
        groups = []
        channels = widths[0]
        for number, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            group = [ResidualBlock(channels, width, 2 if number else 1)]
            group += [ResidualBlock(width, width, 1) for _ in range(count - 1)]
            groups.append(nn.Sequential(*group))
            channels = width
        self.body = nn.Sequential(*groups)
        self.classify = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes)."""
        return self.classify(self.body(self.stem(x)).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """Channels weighed by a small network of their means (MobileNetV3, section 5.3: a quarter, hard sigmoid)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _rounded(channels / 4)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        scale = F.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * F.hardsigmoid(self.expand(scale))


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze and excite, project (Howard et al. 2019, figure 4)."""

    def __init__(
        self, inputs: int, expanded: int, outputs: int, kernel: int, stride: int, excite: bool, hard: bool
    ) -> None:
        super().__init__()

        def activation() -> nn.Module:
            return nn.Hardswish(inplace=True) if hard else nn.ReLU(inplace=True)

        layers: list[nn.Module] = [] if expanded == inputs else [_conv(inputs, expanded, 1, 1, activation())]
        layers.append(_conv(expanded, expanded, kernel, stride, activation(), groups=expanded))
        if excite:
            layers.append(SqueezeExcite(expanded))
        layers.append(_conv(expanded, outputs, 1, 1, nn.Identity()))
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.layers(x)
        return x + y if self.shortcut else y


class MobileNetV3SmallMask(nn.Module):
    """MobileNetV3-Small (Howard et al. 2019, https://arxiv.org/abs/1905.02244, table 2).

    Args:
        width: factor on all channels.
        hidden: of the classifier; 1024 in the paper, far more than three classes need.
        dropout: before the logits.
        classes: logits.
    """

    # kernel, expanded, outputs, squeeze and excite, hard swish, stride
    TABLE = (
        (3, 16, 16, True, False, 2),
        (3, 72, 24, False, False, 2),
        (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2),
        (5, 240, 40, True, True, 1),
        (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1),
        (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1),
        (5, 576, 96, True, True, 1),
    )

    def __init__(self, width: float = 1.0, hidden: int = 128, dropout: float = 0.2, classes: int = CLASSES) -> None:
        super().__init__()
        channels = _rounded(16 * width)
        self.stem = _conv(3, channels, 3, 2, nn.Hardswish(inplace=True))
        body = []
        for kernel, expanded, outputs, excite, hard, stride in self.TABLE:
            wide, out = _rounded(expanded * width), _rounded(outputs * width)
            body.append(InvertedResidual(channels, wide, out, kernel, stride, excite, hard))
            channels = out
        self.body = nn.Sequential(*body)
        self.last = _conv(channels, 6 * channels, 1, 1, nn.Hardswish(inplace=True))
        self.hidden = nn.Sequential(nn.Linear(6 * channels, hidden), nn.Hardswish(inplace=True), nn.Dropout(dropout))
        self.classify = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes)."""
        return self.classify(self.hidden(self.last(self.body(self.stem(x))).mean((2, 3))))


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass, or both halves are made anew where the map shrinks (figure 3)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.shrinks = stride > 1
        entering = inputs if self.shrinks else inputs // 2
        self.left: nn.Module = nn.Identity()
        if self.shrinks:
            self.left = nn.Sequential(
                _conv(inputs, inputs, 3, stride, nn.Identity(), groups=inputs),
                _conv(inputs, half, 1, 1, nn.ReLU(inplace=True)),
            )
        self.right = nn.Sequential(
            _conv(entering, half, 1, 1, nn.ReLU(inplace=True)),
            _conv(half, half, 3, stride, nn.Identity(), groups=half),
            _conv(half, half, 1, 1, nn.ReLU(inplace=True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        first, second = (x, x) if self.shrinks else x.chunk(2, dim=1)
        y = torch.cat([self.left(first), self.right(second)], dim=1)
        count, channels, height, width = y.shape
        return y.view(count, 2, channels // 2, height, width).transpose(1, 2).reshape(count, channels, height, width)


class ShuffleNetV2Mask(nn.Module):
    """ShuffleNetV2 (Ma et al. 2018, https://arxiv.org/abs/1807.11164, table 5; width 0.5 by default).

    Args:
        widths: channels of the stem, of the three stages, and of the last convolution.
        classes: logits.
    """

    REPEATS = (4, 8, 4)

    def __init__(self, widths: tuple[int, int, int, int, int] = (24, 48, 96, 192, 256), classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, widths[0], 3, 2, nn.ReLU(inplace=True)), nn.MaxPool2d(3, 2, 1))
        stages = []
        channels = widths[0]
        for width, count in zip(widths[1:4], self.REPEATS, strict=True):
            units = [ShuffleUnit(channels, width, 2), *(ShuffleUnit(width, width, 1) for _ in range(count - 1))]
            stages.append(nn.Sequential(*units))
            channels = width
        self.body = nn.Sequential(*stages)
        self.last = _conv(channels, widths[4], 1, 1, nn.ReLU(inplace=True))
        self.classify = nn.Linear(widths[4], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes)."""
        return self.classify(self.last(self.body(self.stem(x))).mean((2, 3)))


class EmbedderMask(nn.Module):
    """The dense ResNet of the embedder with three logits on top: a teacher that has seen faces before it sees masks.

    Args:
        dimension: of the embedder's output.
        classes: logits.
        options: further arguments of the embedder.
    """

    def __init__(self, dimension: int = 512, classes: int = CLASSES, **options: Any) -> None:
        super().__init__()
        self.trunk = DenseResNet(dimension=dimension, **options)
        self.classify = nn.Linear(dimension, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 112, 112) -> (N, classes)."""
        return self.classify(self.trunk(x))


MASK_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mask_network": MaskNetwork,
    "resnet": ResNetMask,
    "embedder": EmbedderMask,
    "mobilenet_v3_small": MobileNetV3SmallMask,
    "shufflenet_v2": ShuffleNetV2Mask,
}
