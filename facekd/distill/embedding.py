"""Imitation of the teacher's embedding of the same photograph, by cosine or by angle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.numerics import check_batch, check_same_shape, float32_inside, weighted_mean


@float32_inside
def cosine_embedding_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of one minus the cosine between the student's and the teacher's embedding of the same photograph.

    For unit vectors this is half the squared distance, so it is also the usual L2 imitation of normalised embeddings.

    Args:
        student: (N, T) the student's embeddings after its adapter, of any length.
        teacher: (N, T) the teacher's, of any length; constants.
        weights: (N,) per-sample weights >= 0, or None.

    Returns:
        Scalar in 0..2; 0 when every pair points the same way.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> float(cosine_embedding_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])))
        1.0
    """
    check_batch(student, teacher, "embedding imitation")
    check_same_shape(student, teacher, "embedding imitation")
    return weighted_mean(1.0 - F.cosine_similarity(student, teacher.detach(), dim=1), weights)


@float32_inside
def angular_embedding_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean angle in radians between the student's and the teacher's embedding of the same photograph.

    The gradient of 1 - cos is the sine of the angle: it fades both at 0 and at 180 degrees. That of the angle is one
    everywhere, so far-off photographs are pulled as hard as middling ones. Computed as 2 atan2(|a - b|, |a + b|) of the
    unit vectors, whose gradient is finite where arccos has a pole (cosine plus or minus one).

    Args:
        student: (N, T) the student's embeddings after its adapter, of any length.
        teacher: (N, T) the teacher's, of any length; constants.
        weights: (N,) per-sample weights >= 0, or None.

    Returns:
        Scalar in 0..pi; 0 when every pair points the same way.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> round(float(angular_embedding_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]))), 4)
        1.5708
    """
    check_batch(student, teacher, "embedding imitation")
    check_same_shape(student, teacher, "embedding imitation")
    a, b = F.normalize(student, dim=1), F.normalize(teacher.detach(), dim=1)
    apart, along = torch.linalg.vector_norm(a - b, dim=1), torch.linalg.vector_norm(a + b, dim=1)
    return weighted_mean(2.0 * torch.atan2(apart, along), weights)


class CosineEmbeddingLoss(nn.Module):
    """`cosine_embedding_loss` as a module."""

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `cosine_embedding_loss`."""
        return cosine_embedding_loss(student, teacher, weights)


class AngularEmbeddingLoss(nn.Module):
    """`angular_embedding_loss` as a module."""

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `angular_embedding_loss`."""
        return angular_embedding_loss(student, teacher, weights)
