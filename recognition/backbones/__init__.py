"""Networks that turn an aligned crop into an embedding, by the name that a recipe uses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from facekd.recognition.backbones.dense_resnet import DenseResNet, fused_mobilefacenet
from facekd.recognition.backbones.efficientnet import EfficientNet
from facekd.recognition.backbones.ir_resnet import IRResNet
from facekd.recognition.backbones.mobilefacenet import MobileFaceNet, mobilefacenet_student
from facekd.recognition.backbones.narrow_mobilenet import narrow_mobilenet

# Nothing is built before it is called; all take ``dimension`` and their own options.
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "dense_resnet": DenseResNet,
    "ir_resnet18": partial(IRResNet, depth=18),
    "ir_resnet34": partial(IRResNet, depth=34),
    "ir_resnet50": partial(IRResNet, depth=50),
    "ir_resnet100": partial(IRResNet, depth=100),
    "fused_mobilefacenet": fused_mobilefacenet,
    "mobilefacenet": MobileFaceNet,
    "mobilefacenet_student": mobilefacenet_student,
    "narrow_mobilenet": narrow_mobilenet,
    "efficientnet": EfficientNet,
}
