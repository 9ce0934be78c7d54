"""Arrangements beyond one frozen teacher: online distillation, and progressive distillation through assistants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.response import kl_soft_label
from facekd.distill.teachers import Teacher, TorchTeacher
from facekd.errors import ConfigError

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def online_losses(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 0.5,
    temperature: float = 4.0,
    mutual: bool = False,
) -> dict[str, Tensor]:
    """Losses of a student and of a teacher that is trained beside it; no gradient crosses from one to the other.

    Zhang et al. 2018, "Deep Mutual Learning", https://arxiv.org/abs/1706.00384, equations 4 and 5, when `mutual`;
    otherwise only the student imitates.

    Args:
        student: (N, C) logits with gradient.
        teacher: (N, C) logits with gradient.
        labels: (N,) integer classes or (N, C) class shares.
        alpha: weight of the imitation; each network's own cross-entropy has 1 - alpha (the teacher's 1 unless mutual).
        temperature: T > 0.
        mutual: let the teacher imitate the student, too.

    Returns:
        The terms "student/hard", "student/soft", "teacher/hard" and, when mutual, "teacher/soft", weighted.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is the imitation's share and must lie in 0..1, got {alpha}")
    target = labels.float() if labels.is_floating_point() else labels
    terms = {
        "student/hard": (1 - alpha) * F.cross_entropy(student.float(), target),
        "student/soft": alpha * kl_soft_label(student, teacher, temperature),  # detaches the teacher
        "teacher/hard": (1 - alpha if mutual else 1.0) * F.cross_entropy(teacher.float(), target),
    }
    if mutual:
        terms["teacher/soft"] = alpha * kl_soft_label(teacher, student, temperature)  # detaches the student
    return terms


def distil_through_assistants(
    teacher: Teacher, networks: Sequence[NetworkT], train: Callable[[NetworkT, Teacher], None]
) -> NetworkT:
    """Progressive distillation: each network learns from the one before it, the last is the student.

    Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant", https://arxiv.org/abs/1902.03393,
    section 4: where the gap between teacher and student is wide, networks of sizes in between pass the knowledge on.

    Args:
        teacher: the first one.
        networks: assistants from large to small, then the student.
        train: trains a network in place by a teacher.

    Returns:
        The student, trained by the last assistant.

    Raises:
        ConfigError: no networks, or an assistant that is smaller than what it is to teach.
    """
    if not networks:
        raise ConfigError("progressive distillation needs at least the student")
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    if sizes != sorted(sizes, reverse=True):
        raise ConfigError(f"assistants must come from large to small, got {sizes} parameters")
    current = teacher
    for network in networks:
        train(network, current)
        current = TorchTeacher(network)  # a frozen copy: an assistant is not changed by whom it teaches
    return networks[-1]
