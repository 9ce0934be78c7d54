"""The backbone: three feature maps at strides 8, 16 and 32."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from facekd.detection.network.blocks import ConvUnit, ResidualUnit
from facekd.engine.settings import Section


class BackboneSettings(Section):
    """Shape of the backbone.

    The defaults have the parameters and multiply-adds of MobileNetV1-0.25 with this neck (0.57 M, 0.95 G at 640x640)
    but train 2.3 times as many photographs a second on one processor core: the picture shrinks by four in one
    convolution, since layers of few channels at high resolution are bound by memory, and nothing is depthwise.

    Attributes:
        stem: channels after the first convolution, at stride 4.
        stem_kernel: its kernel; even, so that its windows overlap evenly at stride 4.
        widths: channels at strides 8, 16 and 32.
        middles: channels inside the residual units at each stride.
        depths: residual units at each stride, after the convolution that halves the map.
    """

    stem: int = Field(default=24, gt=0)
    stem_kernel: int = Field(default=6, ge=4, multiple_of=2)
    widths: tuple[int, int, int] = (48, 96, 128)
    middles: tuple[int, int, int] = (24, 32, 64)
    depths: tuple[int, int, int] = (1, 2, 1)


class Backbone(nn.Module):
    """A small dense ResNet that starts from noise.

    Args:
        settings: its shape.
    """

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        self.stem = ConvUnit(3, settings.stem, settings.stem_kernel, 4)
        stages = []
        channels = settings.stem
        for width, middle, depth in zip(settings.widths, settings.middles, settings.depths, strict=True):
            units = [ResidualUnit(width, middle) for _ in range(depth)]
            stages.append(nn.Sequential(ConvUnit(channels, width, 3, 2), *units))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.widths = settings.widths

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Pictures (N, 3, H, W), sides divisible by 32, to features at strides 8, 16 and 32."""
        features = self.stem(pictures)
        levels = []
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        return levels
