"""Margin heads: classification losses over identities whose class centres live on the unit sphere.

All take embeddings of any length and integer labels, and return the mean cross-entropy of the scaled, margined
cosines. Margins are in radians where they are angles. A head's class centres are its ``weight`` (classes, D).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MarginHead(nn.Module):
    """Base: normalised class centres, cosines, and cross-entropy after the margin hook.

    Args:
        classes: number of identities.
        dimension: length of an embedding.
        scale: factor on the cosines; 64 in the papers, smaller for few classes.
        margin: the head's margin; its unit is the subclass's.
    """

    def __init__(self, classes: int, dimension: int, scale: float = 64.0, margin: float = 0.5) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"A margin head needs at least two classes, got {classes}")
        self.weight = nn.Parameter(torch.empty(classes, dimension))
        nn.init.normal_(self.weight, std=0.01)
        self.scale = scale
        self.margin = margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(N, D) embeddings and (N,) labels -> scalar loss, computed in float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = F.linear(F.normalize(embeddings.float()), F.normalize(self.weight.float())).clamp(-1.0, 1.0)
            return F.cross_entropy(self.scale * self.apply_margin(cosines, labels), labels)

    def apply_margin(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """(N, classes) cosines -> (N, classes) logits before scaling."""
        raise NotImplementedError


def additive_angular(target: Tensor, margin: float) -> Tensor:
    """cos(theta + m) of the target's cosine, with ArcFace's fallback beyond pi - m that keeps it monotonic.

    Beyond ``theta = pi - m`` the cosine of the sum would rise again, and a worse embedding would be punished less;
    there the value continues as ``cos(theta) - m sin(pi - m)``.
    """
    sine = (1.0 - target * target).clamp_min(1e-12).sqrt()  # the floor keeps the gradient finite at cos = +-1
    shifted = target * math.cos(margin) - sine * math.sin(margin)
    return torch.where(target > math.cos(math.pi - margin), shifted, target - math.sin(math.pi - margin) * margin)


class ArcFace(MarginHead):
    """Additive angular margin (Deng et al. 2019, equation 3). ``margin`` in radians; the paper uses 0.5."""

    def apply_margin(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Replace each target's cosine by cos(theta + m)."""
        index = labels[:, None]
        return cosines.scatter(1, index, additive_angular(cosines.gather(1, index), self.margin))


class CosFace(MarginHead):
    """Additive cosine margin (Wang et al. 2018, equation 4). ``margin`` is a cosine; the paper uses 0.35."""

    def apply_margin(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Subtract the margin from each target's cosine."""
        index = labels[:, None]
        return cosines.scatter(1, index, cosines.gather(1, index) - self.margin)


class CurricularFace(MarginHead):
    """Adaptive curriculum margin (Huang et al. 2020, equations 5 to 10), as in the authors' released code.

    The target becomes ``cos(theta + m)`` (with the fallback). A negative is hard when its cosine exceeds
    ``cos(theta + m)`` *without* the fallback; it becomes ``cos_j (t + cos_j)``, so hard negatives weigh little
    while ``t`` is small, early in training, and more later. ``t`` is a moving mean of the batch's target cosines
    and a buffer: it is saved with the weights and no gradient passes through it. ``margin`` in radians.

    Args:
        momentum: weight of the new batch in ``t``; the paper uses 0.01.
    """

    t: Tensor

    def __init__(
        self, classes: int, dimension: int, scale: float = 64.0, margin: float = 0.5, momentum: float = 0.01
    ) -> None:
        super().__init__(classes, dimension, scale, margin)
        self.momentum = momentum
        self.register_buffer("t", torch.zeros(()))

    def apply_margin(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Margin on the targets, modulation on the hard negatives; updates ``t`` in training mode."""
        index = labels[:, None]
        target = cosines.gather(1, index)
        sine = (1.0 - target * target).clamp_min(1e-12).sqrt()
        boundary = target * math.cos(self.margin) - sine * math.sin(self.margin)
        if self.training:
            with torch.no_grad():
                self.t.lerp_(target.mean(), self.momentum)
        hard = cosines > boundary
        # A copy of t: the buffer changes in place before the backward pass would read it in the next forward.
        modulated = torch.where(hard, cosines * (self.t.clone() + cosines), cosines)
        return modulated.scatter(1, index, additive_angular(target, self.margin))


MARGIN_HEADS: dict[str, type[MarginHead]] = {"curricularface": CurricularFace, "arcface": ArcFace, "cosface": CosFace}
