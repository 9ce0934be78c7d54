"""The methods that a recipe may name, and what each needs: one line of one dictionary a method."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from facekd.distill.adaptive_centres import AdaDistillLoss
from facekd.distill.attention import AttentionTransferLoss, ChannelWeightedPyramidLoss
from facekd.distill.channel import ChannelWiseLoss
from facekd.distill.class_centres import TeacherCentresLoss
from facekd.distill.detection import DetectionImitationLoss
from facekd.distill.embedding import AngularEmbeddingLoss, CosineEmbeddingLoss
from facekd.distill.evaluation_oriented import EkdLoss
from facekd.distill.generative import MaskedGenerativeLoss
from facekd.distill.gram import FspLoss, GramLoss
from facekd.distill.local import LocalAlignmentLoss
from facekd.distill.margin_distillation import MarginDistillationLoss
from facekd.distill.mimic import MimicLoss
from facekd.distill.pearson import PearsonLoss
from facekd.distill.relation import ContrastiveLoss, RkdAngleLoss, RkdDistanceLoss, SimilarityMatrixLoss
from facekd.distill.response import LogitMseLoss, SoftHardLoss, SoftLabelLoss
from facekd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Method:
    """What the toolkit must know of a method.

    Attributes:
        loss: its module.
        meets: what student and teacher must share, and so what an adapter sees to: `all`, `places` (channels are summed
            away), `channels` (places are), or `nothing`.
        taps: layers a side: exactly that many, or any number (`None`; the loss then takes sequences).
        needs: further tensors that must come with the batch, handed over by name.
        takes: further tensors that are used when they come.
        per_sample: whether it takes per-sample weights.
        embeddings: whether it compares embeddings, which are no class scores to weigh photographs by.
        shares: whether the labels that it takes may be shares of classes, as MixUp and CutMix make them.
        given: arguments of the loss that the toolkit fills in (`channels`, `centres`) and a recipe may not.
    """

    loss: type[nn.Module]
    meets: Literal["all", "places", "channels", "nothing"] = "all"
    taps: int | None = 1
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    per_sample: bool = False
    embeddings: bool = False
    shares: bool = False
    given: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    # response
    "kl": Method(SoftLabelLoss, meets="nothing", per_sample=True),
    "soft-hard": Method(SoftHardLoss, meets="nothing", needs=("labels",), per_sample=True, shares=True),
    "logit-mse": Method(LogitMseLoss, meets="nothing", per_sample=True),
    "detection": Method(DetectionImitationLoss, meets="nothing", taps=3, takes=("anchors",)),
    # feature
    "mimic": Method(MimicLoss, per_sample=True),
    "attention": Method(AttentionTransferLoss, meets="places", per_sample=True),
    "channel-pyramid": Method(ChannelWeightedPyramidLoss, taps=None),
    "gram": Method(GramLoss, meets="channels", per_sample=True),
    "fsp": Method(FspLoss, meets="channels", taps=2, per_sample=True),
    "cwd": Method(ChannelWiseLoss, per_sample=True),
    "mgd": Method(MaskedGenerativeLoss, given=("channels",)),
    "pkd": Method(PearsonLoss, taps=None),
    "local": Method(LocalAlignmentLoss, needs=("boxes", "photographs"), takes=("landmarks",)),
    # relation
    "similarity": Method(SimilarityMatrixLoss, meets="nothing"),
    "rkd-distance": Method(RkdDistanceLoss, meets="nothing"),
    "rkd-angle": Method(RkdAngleLoss, meets="nothing"),
    "contrastive": Method(ContrastiveLoss, takes=("labels",)),
    # faces
    "cosine": Method(CosineEmbeddingLoss, per_sample=True, embeddings=True),
    "angular": Method(AngularEmbeddingLoss, per_sample=True, embeddings=True),
    "centres": Method(TeacherCentresLoss, needs=("labels",), given=("centres",)),
    "margin-distillation": Method(MarginDistillationLoss, needs=("labels",), given=("centres",)),
    "adadistill": Method(AdaDistillLoss, needs=("labels",), given=("centres",)),
    "ekd": Method(EkdLoss, meets="nothing", needs=("labels",)),
}


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        ConfigError: unknown; the message lists those that exist, close ones first.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=2)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ConfigError(f"unknown distillation method {name!r}: {hint}known are {', '.join(METHODS)}")
    return METHODS[name]


def method_options(method: Method) -> list[str]:
    """What a recipe may set of a method."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(method.loss).parameters.values()
    return [item.name for item in parameters if item.kind in named and item.name not in method.given]


def build_loss(name: str, options: Mapping[str, Any], given: Mapping[str, Tensor | int | None]) -> nn.Module:
    """The loss of a method.

    Args:
        name: in `METHODS`.
        options: a recipe's.
        given: `channels` of the maps and the teacher's class `centres`, where known.

    Raises:
        ConfigError: an unknown method or option, a missing tensor, or an option outside its range.
    """
    method = find_method(name)
    known = method_options(method)
    for option in options:
        if option not in known:
            raise ConfigError(f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}")
    structure = {key: given.get(key) for key in method.given}
    for key, value in structure.items():
        if value is None:
            raise ConfigError(f"{name} needs the teacher's {key.replace('_', ' ')}; give them to the Distiller")
    try:
        return method.loss(**structure, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from error
