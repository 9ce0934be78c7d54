"""A small ResNet of plain 3x3 convolutions that learns fast on a processor and runs as fast as a MobileNet.

Depthwise convolutions are cheap to run but slow to train on a CPU: their backward pass moves memory instead of
multiplying. Dense convolutions at 28x28 pixels and below use the processor's arithmetic fully in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from facekd.errors import ConfigError


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """What goes past a block: unchanged, or brought to its size."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al. 2016, figure 5 left).

    Raises:
        ValueError: fewer than 16 inputs. The backward pass of a strided 1x1 convolution over 8 channels writes past its
            memory in channels_last (torch 2.13 with oneDNN 3.12 on AVX-512), so narrow blocks are refused.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        if inputs < 16:
            raise ValueError(f"a block needs at least 16 channels, got {inputs}")
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """What scales the residual: with 0, the block is its shortcut."""
        return self.norm2


class SeparableBlock(nn.Module):
    """An inverted bottleneck in the place of a basic block: 1x1, depthwise 3x3, 1x1 (Sandler et al. 2018, figure 4).

    Unlike there, what leaves the block is rectified, so that the two kinds of blocks have the same features to give.

    Args:
        inputs, outputs: channels.
        stride: 1 or 2.
        expansion: channels between the 1x1 convolutions, in multiples of the inputs.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * inputs
        self.expand = nn.Conv2d(inputs, wide, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.norm2 = nn.BatchNorm2d(wide)
        self.reduce = nn.Conv2d(wide, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.expand(x)))
        y = F.relu(self.norm2(self.depthwise(y)))
        return F.relu(self.norm3(self.reduce(y)) + self.shortcut(x))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """What scales the residual: with 0, the block is its shortcut."""
        return self.norm3


Block = BasicBlock | SeparableBlock


class GlobalDepthwise(nn.Module):
    """MobileFaceNet's global depthwise convolution (Chen et al. 2018, section 3.2), for maps of any size.

    The kernel is learnt at the size of a full crop's feature map. A smaller crop, as at the start of training with
    growing sizes, sees the same kernel resampled and scaled so that its sum stays, so weights carry over.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(channels, channels, size, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C)."""
        height, width = x.shape[-2:]
        if (height, width) == (self.size, self.size):
            pooled = self.conv(x)
        else:
            kernel = F.interpolate(self.conv.weight, size=(height, width), mode="bilinear", antialias=True)
            kernel = kernel * (self.size * self.size / (height * width))
            pooled = F.conv2d(x, kernel, groups=kernel.shape[0])
        return self.norm(pooled).flatten(1)


class DenseResNet(nn.Module):
    """Aligned crop to embedding: a stem, four groups of basic blocks, global depthwise head, linear, BatchNorm.

    Args:
        dimension: length of the embedding.
        widths: channels of the stem (which equals the first group's) and of the four groups.
        blocks: blocks in each group; 0 in the first goes from the stem straight to 28x28 pixels.
        separable: the last so many groups have inverted bottlenecks for basic blocks.
        expansion: of those, see `SeparableBlock`.
        size: pixels of a full crop's side; the head's kernel is ``size / 16``.
    """

    def __init__(
        self,
        dimension: int = 512,
        widths: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (0, 2, 5, 2),
        separable: int = 0,
        expansion: int = 2,
        size: int = 112,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        body: list[nn.Module] = []
        channels = widths[0]
        for group, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            bottlenecks = group >= len(blocks) - separable
            kind = partial(SeparableBlock, expansion=expansion) if bottlenecks else BasicBlock
            for index in range(count):
                body.append(kind(channels, width, 2 if group > 0 and index == 0 else 1))
                channels = width
        self.body = nn.Sequential(*body)
        self._blocks = tuple(blocks)
        self.pool = GlobalDepthwise(channels, size // 16)
        self.project = nn.Linear(channels, dimension, bias=False)
        self.norm = nn.BatchNorm1d(dimension)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.last_norm.weight)  # blocks start as identities: faster at the start

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, size, size) normalised crops -> (N, dimension), not of unit length."""
        return self.norm(self.project(self.pool(self.body(self.stem(x)))))

    def start_from(self, other: DenseResNet) -> None:
        """Take over what fits of a network with fewer blocks, or with basic blocks where this one has separable ones.

        The blocks that it lacks stand last in their groups and are identities until they are trained, for their
        residuals are scaled by 0 and what reaches them is not negative (the deeper network of Net2Net, Chen et al.
        2016, section 2.3). Where nothing else differs, the embeddings stay what they are. Blocks of the other kind
        start as the shortcuts of those in their place: stem, first groups and head know their work, and what lies
        between has to learn it.

        Raises:
            ConfigError: it differs in more than that.
        """
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (getattr(self, part), getattr(other, part)) for part in ("stem", "pool", "project", "norm")
        ]
        for group, (own, taken) in enumerate(zip(self._groups(), other._groups(), strict=True)):
            alike = not taken or (bool(own) and type(own[0]) is type(taken[0]))
            if (taken and not own) or (alike and len(taken) > len(own)) or (group > 0 and own and not taken):
                raise ConfigError(f"blocks = {self._blocks} cannot go on from {other._blocks}")
            if alike:
                pairs += zip(own, taken, strict=False)
            else:
                pairs.append((own[0].shortcut, taken[0].shortcut))
            for block in own[len(taken) if alike else 0 :]:
                nn.init.zeros_(block.last_norm.weight)
        try:
            for mine, theirs in pairs:
                mine.load_state_dict(theirs.state_dict())
        except RuntimeError as error:
            raise ConfigError(f"a network can go on from one of the same widths only: {error}") from error

    def _groups(self) -> list[list[Block]]:
        blocks = cast("Iterator[Block]", iter(self.body))
        return [list(islice(blocks, count)) for count in self._blocks]


# MobileFaceNet's bottlenecks (of its expansion, 2) and its head behind dense blocks, as EfficientNetV2 has them (Tan
# and Le 2021, section 3.2). They stand at 7x7 pixels, where blocks have most parameters: two dense ones 2.10 M, two of
# these 0.40 M.
fused_mobilefacenet = partial(DenseResNet, separable=1)
