"""A small ResNet of plain 3x3 convolutions that learns fast on a processor and runs as fast as a MobileNet.

Depthwise convolutions are cheap to run but slow to train on a CPU: their backward pass moves memory instead of
multiplying. Dense convolutions at 28x28 pixels and below use the processor's arithmetic fully in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from facekd.errors import ConfigError


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
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


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
        blocks: basic blocks in each group; 0 in the first goes from the stem straight to 28x28 pixels.
        size: pixels of a full crop's side; the head's kernel is ``size / 16``.
    """

    def __init__(
        self,
        dimension: int = 512,
        widths: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (0, 2, 5, 1),
        size: int = 112,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        body: list[nn.Module] = []
        channels = widths[0]
        for group, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for index in range(count):
                body.append(BasicBlock(channels, width, 2 if group > 0 and index == 0 else 1))
                channels = width
        self.body = nn.Sequential(*body)
        self._blocks = tuple(blocks)
        self.pool = GlobalDepthwise(channels, size // 16)
        self.project = nn.Linear(channels, dimension, bias=False)
        self.norm = nn.BatchNorm1d(dimension)
        for module in self.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.norm2.weight)  # blocks start as identities: faster at the start

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, size, size) normalised crops -> (N, dimension), not of unit length."""
        return self.norm(self.project(self.pool(self.body(self.stem(x)))))

    def start_from(self, shallower: DenseResNet) -> None:
        """Take over the weights of a network with fewer blocks; its embeddings stay what they are.

        The blocks that it lacks stand last in their groups and are identities until they are trained, for their
        residuals are scaled by 0 and what reaches them is not negative (the deeper network of Net2Net, Chen et al.
        2016, section 2.3).

        Raises:
            ConfigError: it differs in more than that.
        """
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (getattr(self, part), getattr(shallower, part)) for part in ("stem", "pool", "project", "norm")
        ]
        for group, (own, taken) in enumerate(zip(self._groups(), shallower._groups(), strict=True)):
            if len(taken) > len(own) or (group > 0 and own and not taken):
                raise ConfigError(f"blocks = {self._blocks} cannot go on from {shallower._blocks}")
            pairs += zip(own, taken, strict=False)
            for block in own[len(taken) :]:
                nn.init.zeros_(block.norm2.weight)
        try:
            for mine, theirs in pairs:
                mine.load_state_dict(theirs.state_dict())
        except RuntimeError as error:
            raise ConfigError(f"a network can go on from a shallower one of the same widths only: {error}") from error

    def _groups(self) -> list[list[BasicBlock]]:
        blocks = cast("Iterator[BasicBlock]", iter(self.body))
        return [list(islice(blocks, count)) for count in self._blocks]
