"""The mask-status network: a few dense convolutions on a reduced crop."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from facekd.recognition.backbones.dense_resnet import BasicBlock


class MaskNetwork(nn.Module):
    """Aligned crop to three logits: none, mask, incorrect.

    The stem works on a quarter of the crop's resolution: where a mask's upper edge lies against nose and mouth is
    still several pixels there, and the head costs a small part of what the embedder does.

    Args:
        widths: channels of the three groups, at 28x28, 14x14 and 7x7 pixels.
        dropout: share of the pooled features that is dropped in training.
    """

    def __init__(self, widths: Sequence[int] = (24, 48, 96), dropout: float = 0.2) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, first // 2, 3, 2, 1, bias=False),
            nn.BatchNorm2d(first // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(first // 2, first, 3, 2, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
        )
        self.body = nn.Sequential(
            BasicBlock(first, first, 1), BasicBlock(first, second, 2), BasicBlock(second, third, 2)
        )
        self.dropout = dropout
        self.classify = nn.Linear(third, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 112, 112) normalised crops -> (N, 3) logits."""
        features = self.body(self.stem(x)).mean((2, 3))
        return self.classify(F.dropout(features, self.dropout, self.training))
