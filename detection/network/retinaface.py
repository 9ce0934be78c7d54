"""The detector's network: backbone, feature pyramid, context, and dense heads for score, box and five landmarks."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from facekd.detection.anchors import SIDES, STRIDES
from facekd.detection.network.backbone import Backbone, BackboneSettings
from facekd.detection.network.neck import ContextModule, FeaturePyramid
from facekd.detection.network.resnet import ResNet
from facekd.engine.settings import Section

ANCHORS_PER_CELL = len(SIDES[0])
CODES = (1, 4, 10)  # score, box, landmarks
PRIOR = 0.05  # share of anchors that the untrained network calls a face: keeps the first losses small


class NetworkSettings(Section):
    """Shape of the whole network.

    Attributes:
        backbone: the small one; see there.
        resnet: units in the four groups of a ResNet with bottlenecks, in the place of the small backbone; [3, 4, 6, 3]
            is ResNet50, the paper's.
        resnet_width: channels of its first convolution; 64 in the paper.
        channels: channels of the pyramid and of the context modules (RetinaFace: 64 with MobileNet, 256 with ResNet50).
        smooth: 3x3 convolutions after the pyramid's sums.
    """

    backbone: BackboneSettings = BackboneSettings()
    resnet: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] | None = None
    resnet_width: int = Field(default=64, gt=0)
    channels: int = Field(default=64, gt=0, multiple_of=4)
    smooth: bool = False


class Predictions(NamedTuple):
    """What the network says of every anchor, in the anchors' order.

    Attributes:
        logits: (N, A); the sigmoid is the score.
        boxes: (N, A, 4) codes.
        landmarks: (N, A, 10) codes.
    """

    logits: Tensor
    boxes: Tensor
    landmarks: Tensor


class RetinaFace(nn.Module):
    """RetinaFace (Deng et al. 2019, https://arxiv.org/abs/1905.00641) with strides 8, 16, 32 and two anchors a cell.

    Departures: one sigmoid logit an anchor instead of a softmax over two, and one 1x1 convolution a level for the
    three heads together (the same arithmetic as three).

    Args:
        settings: its shape.
    """

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or NetworkSettings()
        resnet = settings.resnet
        self.backbone: ResNet | Backbone = (
            ResNet(resnet, settings.resnet_width) if resnet else Backbone(settings.backbone)
        )
        self.pyramid = FeaturePyramid(self.backbone.widths, settings.channels, smooth=settings.smooth)
        self.context = nn.ModuleList(ContextModule(settings.channels) for _ in STRIDES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.heads = nn.ModuleList(_head(settings.channels) for _ in STRIDES)

    def forward(self, pictures: Tensor) -> Predictions:
        """Normalised pictures (N, 3, H, W), sides divisible by 32, to predictions for every anchor."""
        levels = self.pyramid(self.backbone(pictures))
        outputs = []
        for level, context, head in zip(levels, self.context, self.heads, strict=True):
            output = head(context(level)).permute(0, 2, 3, 1)
            outputs.append(output.reshape(output.shape[0], -1, sum(CODES)))
        every = torch.cat(outputs, dim=1)
        logits, boxes, landmarks = every.split(CODES, dim=2)
        return Predictions(logits.squeeze(2), boxes, landmarks)


def _head(channels: int) -> nn.Conv2d:
    """A 1x1 convolution whose channels are, anchor by anchor, logit, box and landmarks."""
    head = nn.Conv2d(channels, ANCHORS_PER_CELL * sum(CODES), 1)
    nn.init.normal_(head.weight, std=0.01)
    bias = torch.zeros(ANCHORS_PER_CELL, sum(CODES))
    bias[:, 0] = -math.log(1 / PRIOR - 1)
    head.bias = nn.Parameter(bias.flatten())
    return head


class ExportedRetinaFace(nn.Module):
    """The network as the run time knows it: scores instead of logits. Weights keep the names of the trained network."""

    def __init__(self, network: RetinaFace) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (N, 3, H, W) to scores (N, A) in 0..1, box codes (N, A, 4) and landmark codes (N, A, 10)."""
        logits, boxes, landmarks = self.network(pictures)
        if torch.finfo(logits.dtype).bits < 32:  # under autocast: in bf16 every probability above 0.998 would become 1
            logits = logits.float()
        return logits.sigmoid(), boxes, landmarks
