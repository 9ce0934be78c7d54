"""MarginDistillation: the teacher's class centres, and a margin that follows the teacher's own certainty."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.class_centres import centre_loss
from facekd.distill.numerics import check_same_shape, float32_inside


@float32_inside
def teacher_margins(
    teacher: Tensor, centres: Tensor, labels: Tensor, least_radians: float = 0.2, most_radians: float = 0.5
) -> Tensor:
    """The margin of each photograph: larger, the nearer the teacher's embedding lies to its class centre.

    Svitov & Alyamkin 2020, "MarginDistillation", https://arxiv.org/abs/2003.02586, section 3:
    m_i = (m_max - m_min) / d_max * d_i + m_min, d_i the cosine of the teacher's embedding with its centre and d_max the
    batch's largest (as in the authors' code). Negative cosines count as 0, so that no margin falls below m_min.

    Args:
        teacher: (N, T).
        centres: (P, T).
        labels: (N,) people; unknown ones (negative) get the least margin.
        least_radians: m_min.
        most_radians: m_max.

    Returns:
        (N,) radians in least..most.
    """
    known = labels >= 0
    near = F.cosine_similarity(teacher.detach(), centres.detach()[labels.clamp_min(0)], dim=1).clamp_min(0.0)
    near = near.where(known, near.new_zeros(()))
    return (most_radians - least_radians) * near / near.max().clamp_min(1e-6) + least_radians


@float32_inside
def margin_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    centres: Tensor,
    labels: Tensor,
    least_radians: float = 0.2,
    most_radians: float = 0.5,
    scale: float = 64.0,
) -> Tensor:
    """Margin softmax against the teacher's centres with `teacher_margins`; see there for the source.

    Args:
        student: (N, T) after the adapter.
        teacher: (N, T); constants.
        centres: (P, T) the teacher's class centres; constants.
        labels: (N,) people; unknown ones (negative) are left out.
        least_radians: m_min, 0.2 in the authors' code.
        most_radians: m_max, 0.5 in the authors' code.
        scale: 64 in the authors' code.

    Returns:
        Scalar >= 0; near 0 when each student embedding lies on its centre and the centres are apart.
    """
    check_same_shape(student, teacher, "MarginDistillation")
    margins = teacher_margins(teacher, centres, labels, least_radians, most_radians)
    return centre_loss(student, centres, labels, margins, scale)


class MarginDistillationLoss(nn.Module):
    """`margin_distillation_loss` with frozen centres kept as a buffer."""

    centres: Tensor

    def __init__(
        self, centres: Tensor, least_radians: float = 0.2, most_radians: float = 0.5, scale: float = 64.0
    ) -> None:
        super().__init__()
        if not 0.0 <= least_radians <= most_radians:
            raise ValueError(f"wanted 0 <= least <= most radians, got {least_radians} and {most_radians}")
        self.register_buffer("centres", F.normalize(centres.detach().float(), dim=1))
        self.least_radians, self.most_radians, self.scale = least_radians, most_radians, scale

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """See `margin_distillation_loss`."""
        return margin_distillation_loss(
            student, teacher, self.centres, labels, self.least_radians, self.most_radians, self.scale
        )
