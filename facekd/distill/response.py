"""Imitation of the teacher's class scores: soft labels with temperature, soft and hard mixed, logits themselves."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.numerics import check_batch, check_same_shape, float32_inside, weighted_mean


def _check_logits(student: Tensor, teacher: Tensor) -> None:
    check_batch(student, teacher, "class logits")
    check_same_shape(student, teacher, "class logits")


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}; usual values are 1 to 8")


@float32_inside
def kl_soft_label(student: Tensor, teacher: Tensor, temperature: float = 4.0, weights: Tensor | None = None) -> Tensor:
    """KL divergence from the teacher's softened class probabilities to the student's, times T squared.

    Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531,
    section 2: T^2 * mean over photographs of sum_c p_c (log p_c - log q_c), p = softmax(teacher / T),
    q = softmax(student / T). The factor keeps the gradient's size when T changes. The sum runs over classes and the
    mean over photographs ("batchmean"); a mean over both would divide by the number of classes.

    Args:
        student: (N, C) logits, not probabilities.
        teacher: (N, C) logits; constants.
        temperature: T > 0; the paper uses 1 to 20. Higher shows more of what the teacher thinks of the wrong classes.
        weights: (N,) per-sample weights >= 0, or None.

    Returns:
        Scalar >= 0; 0 when both distributions are equal.

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.

    Example:
        >>> float(kl_soft_label(torch.tensor([[0.0, 1.0]]), torch.tensor([[5.0, 6.0]])))
        0.0
    """
    _check_logits(student, teacher)
    _check_temperature(temperature)
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.detach() / temperature, dim=1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)
    return temperature**2 * weighted_mean(divergence, weights)


@float32_inside
def soft_hard_mix(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 0.9,
    temperature: float = 4.0,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """alpha times the soft-label KL plus (1 - alpha) times the cross-entropy with the labels.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2. The cross-entropy is at temperature 1.

    Args:
        student: (N, C) logits.
        teacher: (N, C) logits; constants.
        labels: (N,) integer classes, or (N, C) class probabilities (as MixUp and CutMix make).
        alpha: share of the teacher, 0..1.
        temperature: T > 0 of the soft part.
        label_smoothing: share given to all classes in the hard part, 0..1.
        weights: (N,) per-sample weights >= 0 of the soft part, or None. The labels keep their full weight.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: shapes differ, or alpha is outside 0..1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is the teacher's share and must lie in 0..1, got {alpha}")
    soft = kl_soft_label(student, teacher, temperature, weights)
    target = labels.to(student.dtype) if labels.is_floating_point() else labels
    hard = F.cross_entropy(student, target, label_smoothing=label_smoothing)
    return alpha * soft + (1.0 - alpha) * hard


@float32_inside
def logit_mse(student: Tensor, teacher: Tensor, centred: bool = False, weights: Tensor | None = None) -> Tensor:
    """Mean squared difference of the logits.

    Ba & Caruana 2014, "Do Deep Nets Really Need to be Deep?", https://arxiv.org/abs/1312.6184, equation 1 (without its
    factor of one half); also the limit of the soft-label KL for T to infinity when the logits are centred
    (Hinton et al. 2015, section 2.1).

    Args:
        student: (N, C) logits.
        teacher: (N, C) logits; constants.
        centred: subtract each photograph's mean logit first: softmax does not see a common offset, so the student need
            not learn the teacher's.
        weights: (N,) per-sample weights >= 0, or None.

    Returns:
        Scalar >= 0; 0 when the logits are equal (centred: equal up to an offset a photograph).

    Raises:
        ValueError: the shapes differ.
    """
    _check_logits(student, teacher)
    known = teacher.detach()
    if centred:
        student = student - student.mean(dim=1, keepdim=True)
        known = known - known.mean(dim=1, keepdim=True)
    return weighted_mean((student - known).square(), weights)


class SoftLabelLoss(nn.Module):
    """`kl_soft_label` as a module; `temperature` may be changed by a schedule between steps."""

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        _check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `kl_soft_label`."""
        return kl_soft_label(student, teacher, self.temperature, weights)


class SoftHardLoss(nn.Module):
    """`soft_hard_mix` as a module; `temperature` may be changed by a schedule between steps."""

    def __init__(self, alpha: float = 0.9, temperature: float = 4.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        _check_temperature(temperature)
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha is the teacher's share and must lie in 0..1, got {alpha}")
        self.alpha, self.temperature, self.label_smoothing = alpha, temperature, label_smoothing

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `soft_hard_mix`."""
        return soft_hard_mix(student, teacher, labels, self.alpha, self.temperature, self.label_smoothing, weights)


class LogitMseLoss(nn.Module):
    """`logit_mse` as a module."""

    def __init__(self, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `logit_mse`."""
        return logit_mse(student, teacher, self.centred, weights)
