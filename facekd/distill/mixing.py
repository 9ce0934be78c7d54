"""MixUp and CutMix with targets that stay consistent: what is mixed in the picture is mixed in labels and answers.

Best is to show the teacher the mixed picture (Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and
consistent", https://arxiv.org/abs/2106.05237). Where its answers come from a cache, the answers of the two pictures are
mixed in the same shares, as probabilities: logits are not linear in the picture, and neither is their mixture.
Embeddings cannot be mixed so (the face of a mixture is nobody's): use these for class scores only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from facekd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Mixture:
    """Which pictures are mixed, and in what shares.

    Attributes:
        partner: (N,) index of the picture that each is mixed with.
        share: (N,) share of the picture itself, 0..1; the partner has the rest. For CutMix the share of its pixels.
        box: x1, y1, x2, y2 of the region taken from the partner, or None for MixUp.
    """

    partner: Tensor
    share: Tensor
    box: tuple[int, int, int, int] | None

    def pictures(self, pictures: Tensor) -> Tensor:
        """Mix (N, C, H, W) float pictures; the argument is left as it is."""
        others = pictures[self.partner]
        if self.box is None:
            share = self.share.to(pictures).view(-1, 1, 1, 1)
            return share * pictures + (1.0 - share) * others
        x1, y1, x2, y2 = self.box
        mixed = pictures.clone()
        mixed[:, :, y1:y2, x1:x2] = others[:, :, y1:y2, x1:x2]
        return mixed

    def labels(self, labels: Tensor, classes: int) -> Tensor:
        """Class shares (N, classes) of integer labels (N,)."""
        return self._blend(class_shares(labels, classes))

    def logits(self, logits: Tensor) -> Tensor:
        """Logits (N, C) whose softmax is the mixture of both pictures' class probabilities (temperature 1)."""
        return self._blend(F.softmax(logits.float(), dim=1)).clamp_min(1e-12).log()

    def _blend(self, values: Tensor) -> Tensor:
        share = self.share.to(values).unsqueeze(1)
        return share * values + (1.0 - share) * values[self.partner]


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """Class shares (N, classes), 0 and 1, of integer labels (N,).

    Raises:
        ConfigError: labels that are none of the classes, such as people, or -1 for "nobody knows".
    """
    if labels.is_floating_point() or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes):
        raise ConfigError(
            f"mix blends labels of {classes} classes, 0 to {classes - 1}, got {labels.dtype} from "
            f"{labels.min().item():g} to {labels.max().item():g}: set mix.classes, or leave mix out where labels are "
            "people"
        )
    return F.one_hot(labels, classes).float()


def mixup(count: int, strength: float, generator: torch.Generator) -> Mixture:
    """Zhang et al. 2018, "mixup", https://arxiv.org/abs/1710.09412: one share a batch from Beta(strength, strength).

    Args:
        count: pictures in the batch.
        strength: alpha > 0; 0.2 to 1 are usual.
        generator: of everything drawn.
    """
    share = _beta(strength, generator)
    return Mixture(torch.randperm(count, generator=generator), torch.full((count,), share), None)


def cutmix(count: int, height: int, width: int, strength: float, generator: torch.Generator) -> Mixture:
    """Yun et al. 2019, "CutMix", https://arxiv.org/abs/1905.04899: a rectangle of another picture, one a batch.

    The rectangle is clipped to the picture, and the share is that of the pixels which are left: the drawn one would
    promise the labels more of the partner than there is to see.

    Args:
        count: pictures in the batch.
        height: pixels.
        width: pixels.
        strength: alpha > 0 of Beta(alpha, alpha); 1 in the paper.
        generator: of everything drawn.
    """
    side = (1.0 - _beta(strength, generator)) ** 0.5
    x, y = (int(torch.randint(limit, (1,), generator=generator)) for limit in (width, height))
    half_width, half_height = int(width * side / 2), int(height * side / 2)
    x1, x2 = max(x - half_width, 0), min(x + half_width, width)
    y1, y2 = max(y - half_height, 0), min(y + half_height, height)
    share = 1.0 - (x2 - x1) * (y2 - y1) / (width * height)
    partner = torch.randperm(count, generator=generator)
    return Mixture(partner, torch.full((count,), share), (x1, y1, x2, y2))


def _beta(strength: float, generator: torch.Generator) -> float:
    """Beta(a, a) as a ratio of gamma variables, from the generator that is passed in."""
    if not strength > 0:
        raise ValueError(f"strength must be above 0, got {strength}; usual values are 0.2 to 1")
    first, second = torch._standard_gamma(torch.full((2,), strength), generator=generator).tolist()
    return first / (first + second) if first + second > 0 else 0.5
