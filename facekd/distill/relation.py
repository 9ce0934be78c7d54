"""Relations between the photographs of a batch: similarity matrices, RKD distance and angle, contrastive.

The first three need no adapter: student and teacher may have different dimensions, since only numbers between
photographs are compared. All of them see more the larger the batch is. Maps (N, C, H, W) are flattened to one row a
photograph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.numerics import check_batch, check_same_shape, float32_inside

_CLOSE = 1e-6  # two embeddings nearer than this have no direction between them, and no gradient of their distance


def _rows(student: Tensor, teacher: Tensor, what: str, least: int) -> tuple[Tensor, Tensor]:
    """Both sides as (N, …) rows; maps are flattened, as Tung & Mori do. The teacher's are constants."""
    if student.ndim < 2 or teacher.ndim < 2:
        raise ValueError(f"{what}: wanted (N, D) or (N, C, H, W), got {tuple(student.shape)}, {tuple(teacher.shape)}")
    rows, known = student.flatten(1), teacher.detach().flatten(1)
    check_batch(rows, known, what)
    if len(rows) < least:
        raise ValueError(f"{what}: a relation needs at least {least} photographs in a batch, got {len(rows)}")
    return rows, known


@float32_inside
def similarity_matrix_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the batch's cosine-similarity matrices, off the diagonal.

    Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation", https://arxiv.org/abs/1907.09682, equation 4, in
    the form usual for embeddings: the embeddings are normalised to unit length, so that the matrix holds cosines. The
    paper normalises the rows of the un-normalised Gram matrix instead; with cosines the diagonal is one on both sides,
    and it is left out, so that the value does not depend on its share.

    Args:
        student: (N, D) embeddings or pooled features, of any length; N >= 2.
        teacher: (N, T) the teacher's, T may differ from D; constants.

    Returns:
        Scalar in 0..4; 0 when all pairs of photographs are as alike for the student as for the teacher.

    Raises:
        ValueError: not two matrices of the same photographs, or fewer than two photographs.

    Example:
        >>> float(similarity_matrix_loss(torch.eye(2), torch.ones(2, 3)).round(decimals=4))
        1.0
    """
    rows, known_rows = _rows(student, teacher, "similarity matrices", 2)
    seen, known = F.normalize(rows, dim=1), F.normalize(known_rows, dim=1)
    difference = seen @ seen.T - known @ known.T
    off_diagonal = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    return difference[off_diagonal].square().mean()


@float32_inside
def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber difference of the pairwise distances, each side's divided by its own mean over the batch.

    Park, Kim, Lu & Cho 2019, "Relational Knowledge Distillation", https://arxiv.org/abs/1904.05068, equations 4 to 6
    (delta 1). The paper sums over pairs; the mean is taken here, so that the value does not grow with the batch.

    Args:
        student: (N, D), N >= 2. Give unit-length embeddings to compare cosines' geometry.
        teacher: (N, T), T may differ from D; constants.

    Returns:
        Scalar >= 0; 0 when the student's distances are the teacher's times one factor.

    Raises:
        ValueError: not two matrices of the same photographs, or fewer than two photographs.
    """
    rows, known_rows = _rows(student, teacher, "RKD distance", 2)

    def relative(embeddings: Tensor) -> Tensor:
        distances = F.pdist(embeddings)  # each pair once; the subgradient at distance 0 is 0, not NaN
        return distances / distances.mean().clamp_min(_CLOSE)

    return F.smooth_l1_loss(relative(rows), relative(known_rows))


@float32_inside
def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber difference of the cosines of the angles that three photographs span, at the middle one.

    Park et al. 2019, https://arxiv.org/abs/1904.05068, equations 7 to 9 (delta 1); the mean over triples is taken
    instead of the sum. Costs N^2 * (N + D) numbers: 128 photographs of 512 dimensions 40 MB a side.

    Args:
        student: (N, D), N >= 3.
        teacher: (N, T), T may differ from D; constants.

    Returns:
        Scalar >= 0; 0 when all angles agree, so for any scaled, shifted or turned copy of the teacher's embeddings.

    Raises:
        ValueError: not two matrices of the same photographs, or fewer than three photographs.
    """
    rows, known_rows = _rows(student, teacher, "RKD angle", 3)
    seen, seen_valid = _cosines_of_angles(rows)
    known, known_valid = _cosines_of_angles(known_rows)
    valid = seen_valid & known_valid
    if not valid.any():
        return seen.sum() * 0.0
    return F.smooth_l1_loss(seen[valid], known[valid])


def _cosines_of_angles(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine at j between i and k as (N, N, N) in the order j, i, k, and where i, j, k are three different places."""
    count = len(embeddings)
    legs = embeddings.unsqueeze(0) - embeddings.unsqueeze(1)  # [j, i] = embedding i seen from j
    lengths = torch.linalg.vector_norm(legs, dim=2)
    apart = lengths > _CLOSE
    directions = legs / torch.where(apart, lengths, torch.ones_like(lengths)).unsqueeze(2)
    different = ~torch.eye(count, dtype=torch.bool, device=embeddings.device)
    valid = apart.unsqueeze(2) & apart.unsqueeze(1) & different.unsqueeze(0)
    return directions @ directions.transpose(1, 2), valid


@float32_inside
def contrastive_loss(
    student: Tensor, teacher: Tensor, temperature: float = 0.07, labels: Tensor | None = None
) -> Tensor:
    """InfoNCE: among the batch's teacher embeddings, find the one of the same photograph.

    van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, equation 4, between networks as in Tian, Krishnan &
    Isola 2020, "Contrastive Representation Distillation", https://arxiv.org/abs/1910.10699, section 3.1, with the
    batch's other photographs as negatives in place of their memory bank.

    Args:
        student: (N, T) embeddings after the adapter, of any length; N >= 2.
        teacher: (N, T), of any length; constants.
        temperature: cosines are divided by it, > 0; 0.07 is usual.
        labels: (N,) people, negative where unknown; other photographs of the same person are then no negatives.

    Returns:
        Scalar >= 0. It falls when the student's embedding nears the teacher's of the same photograph and leaves those
        of others; the floor depends on how alike the teacher's embeddings are.

    Raises:
        ValueError: the shapes differ, fewer than two photographs, or the temperature is not above 0.
    """
    rows, known_rows = _rows(student, teacher, "contrastive", 2)
    check_same_shape(rows, known_rows, "contrastive")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}; 0.07 is usual")
    logits = F.normalize(rows, dim=1) @ F.normalize(known_rows, dim=1).T / temperature
    if labels is not None:
        same = (labels.unsqueeze(0) == labels.unsqueeze(1)) & (labels.unsqueeze(0) >= 0)
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(student), device=student.device))


class SimilarityMatrixLoss(nn.Module):
    """`similarity_matrix_loss` as a module."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `similarity_matrix_loss`."""
        return similarity_matrix_loss(student, teacher)


class RkdDistanceLoss(nn.Module):
    """`rkd_distance_loss` as a module."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `rkd_distance_loss`."""
        return rkd_distance_loss(student, teacher)


class RkdAngleLoss(nn.Module):
    """`rkd_angle_loss` as a module."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `rkd_angle_loss`."""
        return rkd_angle_loss(student, teacher)


class ContrastiveLoss(nn.Module):
    """`contrastive_loss` as a module."""

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}; 0.07 is usual")
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """See `contrastive_loss`."""
        return contrastive_loss(student, teacher, self.temperature, labels)
