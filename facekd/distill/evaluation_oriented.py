"""EKD: imitate the teacher only on the pairs that decide true and false match rates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.numerics import check_batch, float32_inside


@float32_inside
def pair_cosines(embeddings: Tensor) -> Tensor:
    """Cosines of all pairs i < j of a batch: (N, D) to (N * (N - 1) / 2,)."""
    unit = F.normalize(embeddings, dim=1)
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    return (unit @ unit.T)[rows, columns]


def pair_kinds(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of the mated and the non-mated pairs i < j; pairs with an unknown person (negative label) are neither."""
    rows, columns = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    known = (labels[rows] >= 0) & (labels[columns] >= 0)
    same = labels[rows] == labels[columns]
    return known & same, known & ~same


def match_thresholds(non_mated: Tensor, rates: Sequence[float]) -> Tensor:
    """The cosines that the given shares of non-mated pairs exceed; (P,) cosines to (K,)."""
    ordered = non_mated.detach().sort(descending=True).values
    places = [min(int(rate * len(ordered)), len(ordered) - 1) for rate in rates]
    return ordered[places]


@float32_inside
def soft_rank(cosines: Tensor, thresholds: Tensor, temperature: float = 0.01) -> Tensor:
    """How many of the thresholds each pair passes, softly: sum of sigmoids; (P,), (K,) to (P,) in 0..K."""
    return torch.sigmoid((cosines.unsqueeze(1) - thresholds.unsqueeze(0)) / temperature).sum(dim=1)


@float32_inside
def ekd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    student_thresholds: Tensor,
    teacher_thresholds: Tensor,
    temperature: float = 0.01,
    hardest: int = 2000,
    mated_weight: float = 0.02,
    non_mated_weight: float = 0.01,
) -> Tensor:
    """Squared difference of the soft ranks of mated pairs and of the student's hardest non-mated pairs.

    Huang et al. 2022, "Evaluation-oriented Knowledge Distillation for Deep Face Recognition",
    https://arxiv.org/abs/2206.02325, section 3, in the form of the authors' released code. Each network has its own
    thresholds at the same false match rates. Only pairs on which the two disagree about a threshold weigh anything:
    those are the critical ones; the student may place all others as its capacity allows. No adapter: dimensions may
    differ.

    Args:
        student: (N, D).
        teacher: (N, T); constants.
        labels: (N,) people; pairs with an unknown person (negative) are left out.
        student_thresholds: (K,) cosines; constants.
        teacher_thresholds: (K,) cosines at the same rates; constants.
        temperature: width of a soft threshold, in cosine; 0.01.
        hardest: non-mated pairs kept, those with the student's largest cosines; 2000.
        mated_weight: 0.02 in the authors' code.
        non_mated_weight: 0.01 in the authors' code.

    Returns:
        Scalar >= 0; 0 when every counted pair passes as many thresholds for the student as for the teacher.
    """
    check_batch(student, teacher, "EKD")
    seen, known = pair_cosines(student), pair_cosines(teacher.detach())
    mated, non_mated = pair_kinds(labels)
    total = student.sum() * 0.0
    if mated.any():
        ranks = soft_rank(seen[mated], student_thresholds.detach(), temperature)
        targets = soft_rank(known[mated], teacher_thresholds.detach(), temperature)
        total = total + mated_weight * (ranks - targets).square().mean()
    if non_mated.any():
        chosen = seen[non_mated].detach().topk(min(hardest, int(non_mated.sum()))).indices
        ranks = soft_rank(seen[non_mated][chosen], student_thresholds.detach(), temperature)
        targets = soft_rank(known[non_mated][chosen], teacher_thresholds.detach(), temperature)
        total = total + non_mated_weight * (ranks - targets).square().mean()
    return total


class EkdLoss(nn.Module):
    """`ekd_loss` with running thresholds.

    The thresholds follow the batches' by an exponential average. Departures from the authors' code: they start at the
    first batch's values, not at 0, so that the first thousand steps are not spent on thresholds that mean nothing; and
    there are four rates by default where the authors have six, down to 1e-6: all rates below one pair of a batch have
    one threshold, its hardest pair, and a batch of 256 photographs has 32,640 pairs.

    Args:
        rates: false match rates of the thresholds; the authors' are 1e-1, 1e-2, ... 1e-6. A rate below one pair of a
            batch is the batch's hardest pair.
        momentum: share of the newest batch; 0.01.
        temperature, hardest, mated_weight, non_mated_weight: see `ekd_loss`.
    """

    student_thresholds: Tensor
    teacher_thresholds: Tensor
    started: Tensor

    def __init__(
        self,
        rates: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
        momentum: float = 0.01,
        temperature: float = 0.01,
        hardest: int = 2000,
        mated_weight: float = 0.02,
        non_mated_weight: float = 0.01,
    ) -> None:
        super().__init__()
        if not rates or not all(0.0 < rate < 1.0 for rate in rates):
            raise ValueError(f"false match rates must lie in 0..1, got {tuple(rates)}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}; the authors have 0.01")
        self.rates, self.momentum, self.temperature, self.hardest = tuple(rates), momentum, temperature, hardest
        self.mated_weight, self.non_mated_weight = mated_weight, non_mated_weight
        self.register_buffer("student_thresholds", torch.zeros(len(self.rates)))
        self.register_buffer("teacher_thresholds", torch.zeros(len(self.rates)))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def _follow(self, student: Tensor, teacher: Tensor, labels: Tensor) -> None:
        _, non_mated = pair_kinds(labels)
        if not non_mated.any():
            return
        share = self.momentum if bool(self.started) else 1.0
        for thresholds, embeddings in ((self.student_thresholds, student), (self.teacher_thresholds, teacher)):
            batch = match_thresholds(pair_cosines(embeddings.float())[non_mated], self.rates)
            thresholds.lerp_(batch.to(thresholds.dtype), share)
        self.started.fill_(True)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss; the thresholds follow the batch first when training."""
        if self.training:
            self._follow(student.detach(), teacher.detach(), labels)
        return ekd_loss(
            student,
            teacher,
            labels,
            self.student_thresholds,
            self.teacher_thresholds,
            self.temperature,
            self.hardest,
            self.mated_weight,
            self.non_mated_weight,
        )
