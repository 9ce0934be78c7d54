"""Networks that turn an aligned crop into an embedding, by the name that a recipe uses."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from facekd.recognition.backbones.dense_resnet import DenseResNet

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "dense_resnet": DenseResNet,
}
