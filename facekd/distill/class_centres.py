"""The teacher's class centres as the student's classifier, frozen or moving, under an additive angular margin."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.numerics import float32_inside
from facekd.errors import ConfigError


def class_centres(embeddings: Tensor, labels: Tensor, people: int) -> Tensor:
    """Mean direction of each person's embeddings, in one pass over the data.

    Args:
        embeddings: (M, T), of any length; each counts with its direction only.
        labels: (M,) people 0 .. people - 1; negative means nobody knows, and is left out.
        people: number of people P.

    Returns:
        (P, T) float32, unit length.

    Raises:
        ConfigError: a person without a photograph, or a label that is too large.
    """
    return centres_of_parts([(embeddings, labels)], people)


def centres_of_parts(parts: Iterable[tuple[Tensor, Tensor]], people: int) -> Tensor:
    """`class_centres` of data that come in parts (at least one) of embeddings and labels."""
    sums: Tensor | None = None
    for embeddings, labels in parts:
        known = labels >= 0
        if known.any() and int(labels.max()) >= people:
            raise ConfigError(
                f"label {int(labels.max())} is beyond the {people} people; number them from 0 without gaps"
            )
        if sums is None:
            sums = torch.zeros(people, embeddings.shape[1], dtype=torch.float32, device=embeddings.device)
        sums.index_add_(0, labels[known], F.normalize(embeddings[known].float(), dim=1))
    if sums is None:
        raise ConfigError("class centres need photographs, and there is none")
    lengths = torch.linalg.vector_norm(sums, dim=1)
    if (lengths == 0).any():
        lonely = int((lengths == 0).nonzero()[0])
        raise ConfigError(f"person {lonely} of {people} has no photograph, and so no centre; renumber the people")
    return F.normalize(sums, dim=1)


@float32_inside
def angular_margin_logits(
    cosines: Tensor, labels: Tensor, margin_radians: float | Tensor = 0.5, scale: float = 64.0
) -> Tensor:
    """Logits with an additive angular margin on the target: scale * cos(theta_y + m).

    Deng et al. 2019, "ArcFace", https://arxiv.org/abs/1801.07698, equation 3, with the fallback cos(theta) - m sin(m)
    beyond theta = pi - m, which keeps the target's logit falling where cos(theta + m) would rise again.

    Args:
        cosines: (N, P).
        labels: (N,) in 0 .. P - 1.
        margin_radians: one number, or (N,) one a photograph.
        scale: s.

    Returns:
        (N, P) logits.
    """
    target = cosines.gather(1, labels.unsqueeze(1)).squeeze(1)
    margin = torch.as_tensor(margin_radians, dtype=cosines.dtype, device=cosines.device)
    sine = (1.0 - target.square()).clamp_min(1e-7).sqrt()  # the clamp keeps the gradient finite at cosine 1
    moved = target * margin.cos() - sine * margin.sin()
    moved = torch.where(target > (math.pi - margin).cos(), moved, target - margin * (math.pi - margin).sin())
    return scale * cosines.scatter(1, labels.unsqueeze(1), moved.unsqueeze(1))


@float32_inside
def centre_loss(
    student: Tensor,
    centres: Tensor,
    labels: Tensor,
    margin_radians: float | Tensor = 0.5,
    scale: float = 64.0,
) -> Tensor:
    """Margin softmax of the student's embeddings against the teacher's class centres.

    Shi et al. 2020, "ProxylessKD: Direct Knowledge Distillation with Inherited Classifier for Face Recognition",
    https://arxiv.org/abs/2011.00265: the student inherits the teacher's classifier and so learns to live in the
    teacher's space. The centres are constants.

    Args:
        student: (N, T) embeddings after the adapter, of any length.
        centres: (P, T) the teacher's, of any length.
        labels: (N,) people; photographs of unknown people (negative) are left out.
        margin_radians: additive angular margin, one number or (N,); 0.5 in ArcFace, smaller for small data.
        scale: 64 in ArcFace.

    Returns:
        Scalar >= 0; near 0 when each student embedding lies on its centre and the centres are apart. 0 without labels.

    Raises:
        ValueError: the dimensions differ.
    """
    if student.shape[1] != centres.shape[1]:
        raise ValueError(
            f"the student has {student.shape[1]} dimensions, the centres {centres.shape[1]}; add an adapter"
        )
    known = labels >= 0
    if not known.any():
        return student.sum() * 0.0
    if isinstance(margin_radians, Tensor) and margin_radians.ndim:
        margin_radians = margin_radians.detach()[known]
    cosines = F.normalize(student[known], dim=1) @ F.normalize(centres.detach(), dim=1).T
    logits = angular_margin_logits(cosines.clamp(-1.0, 1.0), labels[known], margin_radians, scale)
    return F.cross_entropy(logits, labels[known])


class TeacherCentresLoss(nn.Module):
    """`centre_loss` against centres kept here, frozen, or following the teacher's embeddings of the batches.

    Args:
        centres: (P, T) from `class_centres`, or from the teacher's own classifier.
        momentum: None keeps the centres frozen; otherwise a seen person's centre becomes momentum * centre +
            (1 - momentum) * mean of the batch's teacher embeddings of that person, at unit length (0.9 to 0.999).
        margin_radians: see `centre_loss`.
        scale: see `centre_loss`.
    """

    centres: Tensor

    def __init__(
        self, centres: Tensor, momentum: float | None = None, margin_radians: float = 0.5, scale: float = 64.0
    ) -> None:
        super().__init__()
        if momentum is not None and not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must lie in 0..1 (1 excluded) or be None, got {momentum}")
        self.register_buffer("centres", F.normalize(centres.detach().float(), dim=1))
        self.momentum, self.margin_radians, self.scale = momentum, margin_radians, scale

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss; (N, T), (N, T), (N,). Moves the centres first when training with a momentum."""
        if self.momentum is not None and self.training:
            move_centres(self.centres, teacher, labels, torch.full_like(labels, self.momentum, dtype=torch.float32))
        return centre_loss(student, self.centres, labels, self.margin_radians, self.scale)


@torch.no_grad()
def move_centres(centres: Tensor, teacher: Tensor, labels: Tensor, keep: Tensor) -> None:
    """Move the centres of a batch's people towards their teacher embeddings, in place.

    Every photograph proposes keep * centre + (1 - keep) * embedding; a person's centre becomes the mean of the batch's
    proposals, at unit length (indexed assignment would let one of several photographs win, which one is not defined).

    Args:
        centres: (P, T) unit length; changed.
        teacher: (N, T) of any length.
        labels: (N,); negative ones are left out.
        keep: (N,) share of the old centre, 0..1.
    """
    known = labels >= 0
    owners, share = labels[known], keep[known].to(centres.dtype).unsqueeze(1)
    proposals = share * centres[owners] + (1.0 - share) * F.normalize(teacher[known].to(centres.dtype), dim=1)
    people, place = owners.unique(return_inverse=True)
    sums = torch.zeros(len(people), centres.shape[1], dtype=centres.dtype, device=centres.device)
    centres[people] = F.normalize(sums.index_add_(0, place, proposals), dim=1)
