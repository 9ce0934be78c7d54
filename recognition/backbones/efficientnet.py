"""EfficientNet-B0's body on an aligned crop (Tan and Le 2019, https://arxiv.org/abs/1905.11946, table 1).

The paper looks at 224x224 pixels. A crop of 112x112 with a stem of stride 1 gives every layer the map that it has in
the paper, the same parameters and the same multiply-adds; the classifier gives way to a global depthwise convolution
and a linear layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facekd.recognition.backbones.dense_resnet import GlobalDepthwise
from facekd.recognition.backbones.mobilefacenet import convolution
from facekd.recognition.backbones.squeeze_excite import SqueezeExcite

# kernel, expansion, outputs, stride, repeats
TABLE = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 2, 3),
    (5, 6, 112, 1, 3),
    (5, 6, 192, 2, 4),
    (3, 6, 320, 1, 1),
)
STEM, LAST = 32, 1280


class StochasticDepth(nn.Module):
    """Leave a block's branch out for some photographs of a batch (Huang et al. 2016, equation 2).

    What remains is divided by its share, so that the expectation stays and nothing is left to do in evaluation.

    Args:
        share: of the photographs, whose branch is left out while training; 0 leaves all in.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, branch: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, whole photographs of it 0."""
        if not self.training or not self.share:
            return branch
        kept = torch.rand(len(branch), 1, 1, 1, device=branch.device) >= self.share
        return branch * kept.to(branch.dtype) / (1.0 - self.share)


class MBConv(nn.Module):
    """Expand, depthwise, squeeze and excite to a quarter of the *inputs*, project; swish throughout."""

    def __init__(self, inputs: int, outputs: int, kernel: int, expansion: int, stride: int, left_out: float) -> None:
        super().__init__()
        wide = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(convolution(inputs, wide, 1, activation=nn.SiLU(inplace=True)))
        layers.append(convolution(wide, wide, kernel, stride, groups=wide, activation=nn.SiLU(inplace=True)))
        layers.append(SqueezeExcite(wide, inputs // 4, nn.SiLU(inplace=True)))
        layers.append(convolution(wide, outputs, 1))
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs
        self.depth = StochasticDepth(left_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.layers(x)
        return x + self.depth(y) if self.shortcut else y


class EfficientNet(nn.Module):
    """Aligned crop to embedding with the body of EfficientNet-B0.

    Args:
        dimension: length of the embedding.
        stem_stride: 1 has the paper's maps (0.39 G multiply-adds); 2 costs a quarter and ends at 4x4 pixels.
        stochastic_depth: share of a batch for which the last block with a shortcut is left out in training, rising
            to it in proportion to depth; 0.2 in the paper, for hundreds of passes over millions of photographs.
        size: pixels of a full crop's side.

    Raises:
        ValueError: ``stochastic_depth`` is not in 0..1 (1 excluded).
    """

    def __init__(
        self, dimension: int = 512, stem_stride: int = 1, stochastic_depth: float = 0.0, size: int = 112
    ) -> None:
        super().__init__()
        if not 0.0 <= stochastic_depth < 1.0:
            raise ValueError(f"stochastic_depth is a share from 0 to below 1, got {stochastic_depth}")
        blocks = sum(row[-1] for row in TABLE)
        self.stem = convolution(3, STEM, 3, stem_stride, activation=nn.SiLU(inplace=True))
        body: list[nn.Module] = []
        channels = STEM
        for kernel, expansion, outputs, stride, repeats in TABLE:
            for index in range(repeats):
                left_out = stochastic_depth * len(body) / (blocks - 1)
                body.append(MBConv(channels, outputs, kernel, expansion, stride if index == 0 else 1, left_out))
                channels = outputs
        self.body = nn.Sequential(*body)
        self.last = convolution(channels, LAST, 1, activation=nn.SiLU(inplace=True))
        self.pool = GlobalDepthwise(LAST, -(-size // (16 * stem_stride)))
        self.project = nn.Linear(LAST, dimension, bias=False)
        self.norm = nn.BatchNorm1d(dimension)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, size, size) normalised crops -> (N, dimension), not of unit length."""
        return self.norm(self.project(self.pool(self.last(self.body(self.stem(x))))))
