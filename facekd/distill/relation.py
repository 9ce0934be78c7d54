"""Relations between the photographs of a batch: batch similarity matrices, RKD distance and angle, contrastive.

Relations need no adapter: student and teacher may have different dimensions, since only numbers between photographs are
compared. All of them see more the larger the batch is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.numerics import check_batch, float32_inside


def _check_relation(student: Tensor, teacher: Tensor, what: str, least: int) -> None:
    check_batch(student, teacher, what)
    if len(student) < least:
        raise ValueError(f"{what}: a relation needs at least {least} photographs in a batch, got {len(student)}")


@float32_inside
def similarity_matrix_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the batch's cosine-similarity matrices, off the diagonal.

    Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation", https://arxiv.org/abs/1907.09682, equation 4, in
    the form usual for embeddings: the embeddings are normalised to unit length, so that the matrix holds cosines. The
    paper normalises the rows of the un-normalised Gram matrix instead; with cosines the diagonal is one on both sides,
    and it is left out, so that the value does not shrink with it.

    Args:
        student: (N, D) embeddings or pooled features, of any length; N >= 2.
        teacher: (N, T) the teacher's, T may differ from D; constants.

    Returns:
        Scalar in 0..4; 0 when all pairs of photographs are as alike for the student as for the teacher.

    Raises:
        ValueError: not two matrices of the same photographs, or fewer than two photographs.

    Example:
        >>> e = torch.eye(2)
        >>> float(similarity_matrix_loss(e, torch.ones(2, 3)))
        1.0
    """
    _check_relation(student, teacher, "similarity matrices", 2)
    seen = F.normalize(student, dim=1)
    known = F.normalize(teacher.detach(), dim=1)
    difference = seen @ seen.T - known @ known.T
    count = len(student)
    off_diagonal = ~torch.eye(count, dtype=torch.bool, device=student.device)
    return difference[off_diagonal].square().mean()


class SimilarityMatrixLoss(nn.Module):
    """`similarity_matrix_loss` as a module."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `similarity_matrix_loss`."""
        return similarity_matrix_loss(student, teacher)
