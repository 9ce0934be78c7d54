"""The refiner's network: five landmarks, box and score of the one face in a small upright square."""

from __future__ import annotations

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from facekd.detection.network.blocks import ConvUnit, ResidualUnit
from facekd.detection.refiner import SIDE_PX
from facekd.engine.settings import Section

CODES = (10, 4, 1)  # landmarks, box, score


class RefinerSettings(Section):
    """Shape of the network; the defaults have 0.59 M parameters and 14.5 M multiply-adds.

    Attributes:
        stem: channels after the first convolution, at stride 2.
        widths: channels at strides 4, 8 and 16.
        middles: channels inside the residual units at each stride.
        depths: residual units at each stride, after the convolution that halves the map.
        hidden: features before the answers.
        dropout: share of these that is dropped in training.
    """

    stem: int = Field(default=16, gt=0)
    widths: tuple[PositiveInt, PositiveInt, PositiveInt] = (32, 64, 128)
    middles: tuple[PositiveInt, PositiveInt, PositiveInt] = (16, 32, 64)
    depths: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt] = (1, 2, 1)
    hidden: int = Field(default=128, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class RefinerNetwork(nn.Module):
    """A small dense ResNet whose last map is not pooled: where something is in the square is what is asked.

    Args:
        settings: its shape.
    """

    def __init__(self, settings: RefinerSettings | None = None) -> None:
        super().__init__()
        settings = settings or RefinerSettings()
        layers: list[nn.Module] = [ConvUnit(3, settings.stem, 5, 2)]
        channels = settings.stem
        for width, middle, depth in zip(settings.widths, settings.middles, settings.depths, strict=True):
            layers += [ConvUnit(channels, width, 3, 2), *(ResidualUnit(width, middle) for _ in range(depth))]
            channels = width
        self.body = nn.Sequential(*layers)
        self.hidden = nn.Linear(channels * (SIDE_PX // 16) ** 2, settings.hidden, bias=False)
        self.norm = nn.BatchNorm1d(settings.hidden)
        self.dropout = nn.Dropout(settings.dropout)
        self.answers = nn.Linear(settings.hidden, sum(CODES))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.answers.weight, std=0.01)

    def forward(self, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised squares (N, 3, 64, 64) to codes of points (N, 10) and boxes (N, 4), and logits (N,)."""
        features = torch.relu(self.norm(self.hidden(self.body(squares).flatten(1))))
        points, boxes, logits = self.answers(self.dropout(features)).split(CODES, dim=1)
        return points, boxes, logits.squeeze(1)


class ExportedRefiner(nn.Module):
    """The network as the run time knows it: scores instead of logits."""

    def __init__(self, network: RefinerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squares (N, 3, 64, 64) to codes (N, 10), codes (N, 4) and scores (N,) in 0..1."""
        points, boxes, logits = self.network(squares)
        return points, boxes, logits.sigmoid()
