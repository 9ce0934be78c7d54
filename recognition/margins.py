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
    """Base: normalised class centres, cosines, and cross-entropy after the margin.

    A margin is three hooks, all pure but ``observe``: ``observe`` updates running statistics, ``margin_target`` changes
    the target's cosine, ``modulate`` those of the other classes. They see the target apart from the classes, so that
    ``PartialFC`` can call them where the target's class lives on another machine.

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
            embeddings = embeddings.float()
            cosines = F.linear(F.normalize(embeddings), F.normalize(self.weight.float())).clamp(-1.0, 1.0)
            logits = self.scale * self.apply_margin(cosines, labels, embeddings.norm(dim=1, keepdim=True))
            return F.cross_entropy(logits, labels)

    def apply_margin(self, cosines: Tensor, labels: Tensor, norms: Tensor | None = None) -> Tensor:
        """(N, classes) cosines -> (N, classes) logits before scaling.

        ``norms`` (N, 1): lengths of the embeddings, for heads that look at them; 1 when not given.
        """
        index = labels[:, None]
        target = cosines.gather(1, index)
        norms = torch.ones_like(target) if norms is None else norms
        if self.training:
            self.observe(target.detach(), norms.detach())
        return self.modulate(cosines, target).scatter(1, index, self.margin_target(target, norms))

    def observe(self, target: Tensor, norms: Tensor) -> None:
        """Update running statistics from a batch's target cosines and lengths (N, 1); none by default."""

    def margin_target(self, target: Tensor, norms: Tensor) -> Tensor:
        """(N, 1) target cosines -> (N, 1) target logits before scaling."""
        raise NotImplementedError

    def modulate(self, cosines: Tensor, target: Tensor) -> Tensor:
        """(N, any) cosines of other classes -> their logits before scaling; unchanged by default."""
        return cosines


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

    def margin_target(self, target: Tensor, norms: Tensor) -> Tensor:
        """cos(theta + m), with the fallback."""
        return additive_angular(target, self.margin)


class CosFace(MarginHead):
    """Additive cosine margin (Wang et al. 2018, equation 4). ``margin`` is a cosine; the paper uses 0.35."""

    def margin_target(self, target: Tensor, norms: Tensor) -> Tensor:
        """The cosine minus the margin."""
        return target - self.margin


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

    @torch.no_grad()
    def observe(self, target: Tensor, norms: Tensor) -> None:
        """Move ``t`` towards the batch's mean target cosine."""
        self.t.lerp_(target.mean().to(self.t.dtype), self.momentum)

    def margin_target(self, target: Tensor, norms: Tensor) -> Tensor:
        """cos(theta + m), with the fallback."""
        return additive_angular(target, self.margin)

    def modulate(self, cosines: Tensor, target: Tensor) -> Tensor:
        """``cos_j (t + cos_j)`` where the negative is hard."""
        sine = (1.0 - target * target).clamp_min(1e-12).sqrt()
        hard = cosines > target * math.cos(self.margin) - sine * math.sin(self.margin)
        # A copy of t: the buffer changes in place before the backward pass would read it in the next forward.
        return torch.where(hard, cosines * (self.t.clone() + cosines), cosines)


class AdaFace(MarginHead):
    """Margin that follows the photograph's quality, read from the embedding's length (Kim et al. 2022).

    With ``z`` the length, normalised by running mean and deviation and clipped to -1..1, the target becomes
    ``cos(theta - m z) - (m z + m)``: ArcFace's margin at z = -1, CosFace's at 0, and at 1 one that weighs hard
    photographs more. So what is too blurred to be recognised is not learnt by heart. No gradient passes through
    ``z``. ``margin`` in radians and cosine at once; the paper uses 0.4. (Clipping as in the authors' code.)

    Args:
        concentration: ``h``: lengths ``1 / h`` deviations from the mean reach the clip; the paper uses 0.333.
        momentum: weight of the new batch in the running mean and deviation; the paper uses 0.01.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        classes: int,
        dimension: int,
        scale: float = 64.0,
        margin: float = 0.4,
        concentration: float = 0.333,
        momentum: float = 0.01,
    ) -> None:
        super().__init__(classes, dimension, scale, margin)
        self.concentration = concentration
        self.momentum = momentum
        self.register_buffer("mean", torch.tensor(20.0))  # where the authors start
        self.register_buffer("deviation", torch.tensor(100.0))

    @torch.no_grad()
    def observe(self, target: Tensor, norms: Tensor) -> None:
        """Move the running mean and deviation of the lengths; a single embedding has no deviation."""
        lengths = norms.clamp(0.001, 100.0)
        self.mean.lerp_(lengths.mean().to(self.mean.dtype), self.momentum)
        if len(lengths) > 1:
            self.deviation.lerp_(lengths.std().to(self.deviation.dtype), self.momentum)

    def margin_target(self, target: Tensor, norms: Tensor) -> Tensor:
        """cos(theta - m z) - (m z + m), the angle kept within 0..pi."""
        lengths = norms.detach().clamp(0.001, 100.0)
        quality = ((lengths - self.mean) / (self.deviation + 1e-3) * self.concentration).clamp(-1.0, 1.0)
        theta = target.clamp(-1.0 + 1e-3, 1.0 - 1e-3).acos()  # the authors' clip keeps the gradient finite
        shifted = (theta - self.margin * quality).clamp(1e-3, math.pi - 1e-3)
        return shifted.cos() - (self.margin * quality + self.margin)


MARGIN_HEADS: dict[str, type[MarginHead]] = {
    "curricularface": CurricularFace,
    "arcface": ArcFace,
    "cosface": CosFace,
    "adaface": AdaFace,
}
