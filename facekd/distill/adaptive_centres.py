"""AdaDistill: class centres distilled from the teacher, simple ones early, exact ones as the student learns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.class_centres import centre_loss, move_centres
from facekd.distill.numerics import check_same_shape, float32_inside


@float32_inside
def keep_shares(student: Tensor, teacher: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """alpha of AdaDistill: how much of the old centre a photograph keeps.

    Boutros, Struc & Damer 2024, "AdaDistill", https://arxiv.org/abs/2407.01332, section 3: the cosine between the
    student's and the teacher's embedding, times the cosine between the teacher's embedding and the centre (clipped to
    0..1), clipped to 0..1. Early on the student is far from the teacher, alpha is small and the centre is nearly the
    last photograph (easy); later the centre becomes the average of many (hard).

    Args:
        student: (N, T) after the adapter.
        teacher: (N, T).
        centres: (P, T).
        labels: (N,), negative ones are treated as person 0 and must be left out by the caller.

    Returns:
        (N,) in 0..1, constants.
    """
    agreement = F.cosine_similarity(student.detach(), teacher.detach(), dim=1).clamp(-1.0, 1.0)
    typical = F.cosine_similarity(teacher.detach(), centres.detach()[labels.clamp_min(0)], dim=1).clamp(1e-6, 1.0)
    return (agreement * typical).clamp(1e-6, 1.0)


@float32_inside
def adadistill_loss(
    student: Tensor,
    teacher: Tensor,
    centres: Tensor,
    labels: Tensor,
    margin_radians: float = 0.5,
    scale: float = 64.0,
) -> tuple[Tensor, Tensor]:
    """Margin softmax against centres that moved by `keep_shares`, and these centres.

    Args:
        student: (N, T) after its adapter.
        teacher: (N, T); constants.
        centres: (P, T) unit length; left as they are.
        labels: (N,) people, negative for unknown.
        margin_radians: additive angular margin.
        scale: 64 in the paper.

    Returns:
        Scalar >= 0, near 0 when each student embedding lies on its moved centre and the centres are apart; and the
        moved centres (P, T).

    Raises:
        ValueError: student and teacher differ in shape.
    """
    check_same_shape(student, teacher, "AdaDistill")
    moved = centres.detach().clone()
    move_centres(moved, teacher, labels, keep_shares(student, teacher, centres, labels))
    return centre_loss(student, moved, labels, margin_radians, scale), moved


class AdaDistillLoss(nn.Module):
    """`adadistill_loss` with centres that are kept from step to step.

    Departures from the authors' code: where a batch holds a person twice, the proposals are averaged (there, the last
    written wins), and centres are kept at unit length; and they start from the teacher's class centres unless told
    otherwise, where the paper has random directions. With those nearly every first centre is one photograph.

    Args:
        centres: (P, T) to start from; a buffer, saved in checkpoints.
        random_start: start from random directions instead, as the paper does; of `centres` only the shape counts then.
        margin_radians: additive angular margin; 0.5 is ArcFace's, smaller suits small data.
        scale: 64 in the paper.

    Shape:
        student (N, T) after its adapter, teacher (N, T), labels (N,) with negative for unknown; returns a scalar >= 0.
    """

    centres: Tensor

    def __init__(
        self, centres: Tensor, margin_radians: float = 0.5, scale: float = 64.0, random_start: bool = False
    ) -> None:
        super().__init__()
        start = self.random_centres(*centres.shape) if random_start else centres
        self.register_buffer("centres", F.normalize(start.detach().float(), dim=1))
        self.margin_radians, self.scale = margin_radians, scale

    @staticmethod
    def random_centres(people: int, dimension: int, generator: torch.Generator | None = None) -> Tensor:
        """Random directions (people, dimension) to start from, as in the paper."""
        return F.normalize(torch.randn(people, dimension, generator=generator), dim=1)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss; moves the centres first when training."""
        if not self.training:
            check_same_shape(student, teacher, "AdaDistill")
            return centre_loss(student, self.centres, labels, self.margin_radians, self.scale)
        loss, moved = adadistill_loss(student, teacher, self.centres, labels, self.margin_radians, self.scale)
        self.centres.copy_(moved)
        return loss
