"""How much each photograph counts in a distillation loss: by the teacher's confidence or the student's difficulty.

All weights are constants (no gradient flows into them) and are normalised by `weighted_mean` to a mean over the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from facekd.distill.numerics import float32_inside


@torch.no_grad()
@float32_inside
def confidence_weights(teacher: Tensor) -> Tensor:
    """One minus the normalised entropy of the teacher's class probabilities.

    Args:
        teacher: (N, C) logits, C >= 2.

    Returns:
        (N,) in 0..1; 1 where the teacher is certain, 0 where it cannot tell the classes apart.
    """
    log_probabilities = F.log_softmax(teacher, dim=1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1)
    return (1.0 - entropy / torch.log(torch.tensor(float(teacher.shape[1]), device=teacher.device))).clamp(0.0, 1.0)


@torch.no_grad()
@float32_inside
def correctness_weights(teacher: Tensor, labels: Tensor) -> Tensor:
    """The probability that the teacher gives to the label: where it errs, it teaches little.

    Args:
        teacher: (N, C) logits.
        labels: (N,) integer classes, or (N, C) class shares.

    Returns:
        (N,) in 0..1.
    """
    return _label_share(F.softmax(teacher, dim=1), labels)


@torch.no_grad()
@float32_inside
def difficulty_weights(student: Tensor, labels: Tensor, focus: float = 1.0) -> Tensor:
    """(1 - p_label) ** focus of the student: photographs that it has learnt count less.

    The modulating factor of Lin et al. 2017, "Focal Loss for Dense Object Detection", https://arxiv.org/abs/1708.02002,
    equation 4, used as a weight of the teacher's term.

    Args:
        student: (N, C) logits.
        labels: (N,) integer classes, or (N, C) class shares.
        focus: gamma >= 0; 0 weighs all alike.

    Returns:
        (N,) in 0..1.
    """
    return (1.0 - _label_share(F.softmax(student, dim=1), labels)).clamp(0.0, 1.0) ** focus


def _label_share(probabilities: Tensor, labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        return (probabilities * labels).sum(dim=1)
    return probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
