"""MobileFaceNet: inverted bottlenecks and a global depthwise convolution instead of average pooling.

Chen et al. 2018 (https://arxiv.org/abs/1804.07573), table 1. Departure by default: ReLU in place of PReLU, which
trains faster and which ONNX Runtime runs several times faster on processors; ``prelu = True`` is the paper's form.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from facekd.recognition.backbones.dense_resnet import GlobalDepthwise

PAPER_WIDTHS = (64, 64, 128, 128)
PAPER_BLOCKS = (4, 6, 2)


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    """Convolution that keeps the size (divided by the stride), BatchNorm, and an activation if one is given."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation] if activation is not None else []))


def _activation(channels: int, prelu: bool) -> nn.Module:
    return nn.PReLU(channels) if prelu else nn.ReLU(inplace=True)


class Bottleneck(nn.Module):
    """Expand by 1x1, depthwise 3x3, project by 1x1 without activation (Sandler et al. 2018, figure 4)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, prelu: bool) -> None:
        super().__init__()
        wide = inputs * expansion
        self.layers = nn.Sequential(
            convolution(inputs, wide, 1, activation=_activation(wide, prelu)),
            convolution(wide, wide, 3, stride, groups=wide, activation=_activation(wide, prelu)),
            convolution(wide, outputs, 1),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.layers(x)
        return x + y if self.shortcut else y


class MobileFaceNet(nn.Module):
    """Aligned crop to embedding.

    With ``dimension = 128, prelu = True`` this is the paper's network of 0.99 M parameters and 221 M multiply-adds.

    Args:
        dimension: length of the embedding.
        width: factor on all widths, rounded to multiples of 8; 1.0 in the paper.
        prelu: PReLU as in the paper instead of ReLU.
        widths: channels at 56x56, 28x28, 14x14 and 7x7 pixels.
        blocks: bottlenecks with a shortcut at 28x28, 14x14 and 7x7, each after one that halves the map.
        last: channels of the head, scaled by nothing.
        size: pixels of a full crop's side.

    Raises:
        ValueError: a group narrower than 16 channels.
    """

    def __init__(
        self,
        dimension: int = 512,
        width: float = 1.0,
        prelu: bool = False,
        widths: Sequence[int] = PAPER_WIDTHS,
        blocks: Sequence[int] = PAPER_BLOCKS,
        last: int = 512,
        size: int = 112,
    ) -> None:
        super().__init__()
        scaled = [8 * round(w * width / 8) for w in widths]
        if min(scaled) < 16:
            raise ValueError(f"a group needs at least 16 channels, got {scaled} from width {width}")
        stem, *stages = scaled
        self.stem = nn.Sequential(
            convolution(3, stem, 3, 2, activation=_activation(stem, prelu)),
            convolution(stem, stem, 3, groups=stem, activation=_activation(stem, prelu)),
        )
        body: list[nn.Module] = []
        channels = stem
        for outputs, count, expansion in zip(stages, blocks, (2, 4, 4), strict=True):
            body.append(Bottleneck(channels, outputs, expansion, 2, prelu))
            body += [Bottleneck(outputs, outputs, 2, 1, prelu) for _ in range(count)]
            channels = outputs
        self.body = nn.Sequential(*body)
        self.last = convolution(channels, last, 1, activation=_activation(last, prelu))
        self.pool = GlobalDepthwise(last, size // 16)
        self.project = nn.Linear(last, dimension, bias=False)
        self.norm = nn.BatchNorm1d(dimension)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, size, size) normalised crops -> (N, dimension), not of unit length."""
        return self.norm(self.project(self.pool(self.last(self.body(self.stem(x))))))


# 1.98 M parameters and 0.446 G multiply-adds at 512-d; multiples of 16 fill the processor's vectors.
mobilefacenet_student = partial(MobileFaceNet, widths=(96, 96, 176, 176))
