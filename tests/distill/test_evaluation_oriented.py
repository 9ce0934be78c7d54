"""EKD: against loops over pairs; zero where both networks match alike."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from facekd.distill.evaluation_oriented import EkdLoss, ekd_loss, match_thresholds, pair_cosines, pair_kinds

LABELS = np.array([0, 0, 1, 1, -1, 2])
STUDENT_THRESHOLDS, TEACHER_THRESHOLDS = np.array([0.6, 0.2]), np.array([0.5, 0.1])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def rank(value: float, thresholds: np.ndarray, temperature: float) -> float:
    return sum(1 / (1 + np.exp(-(value - threshold) / temperature)) for threshold in thresholds)


def reference(student, teacher, labels, seen_at, known_at, temperature, hardest) -> float:
    mated, non_mated = [], []
    for i, j in combinations(range(len(labels)), 2):
        if min(labels[i], labels[j]) < 0:
            continue
        seen, known = cosine(student[i], student[j]), cosine(teacher[i], teacher[j])
        error = (rank(seen, seen_at, temperature) - rank(known, known_at, temperature)) ** 2
        (mated if labels[i] == labels[j] else non_mated).append((seen, error))
    worst = sorted(non_mated, reverse=True)[:hardest]
    return 0.02 * float(np.mean([e for _, e in mated])) + 0.01 * float(np.mean([e for _, e in worst]))


def test_agrees_with_loops_across_dimensions(agrees, draw) -> None:
    rest = (draw(6, 5), LABELS, STUDENT_THRESHOLDS, TEACHER_THRESHOLDS, 0.2, 3)
    assert agrees(ekd_loss, reference, draw(6, 4), *rest) > 0


def test_zero_for_a_turned_copy_at_equal_thresholds(draw) -> None:
    teacher = torch.tensor(draw(6, 4))
    turn, _ = torch.linalg.qr(torch.tensor(draw(4, 4)))
    at = torch.tensor(TEACHER_THRESHOLDS)
    assert ekd_loss(2 * teacher @ turn, teacher, torch.tensor(LABELS), at, at).item() == pytest.approx(0.0, abs=1e-12)


def test_only_pairs_that_pass_another_number_of_thresholds_matter() -> None:
    angles = torch.tensor([0.0, 0.3], dtype=torch.float64)
    teacher = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels, at = torch.tensor([0, 0]), torch.tensor([0.5])

    def loss(angle: float) -> float:
        student = torch.tensor([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
        return ekd_loss(student, teacher, labels, at, at).item()

    assert loss(0.8) == pytest.approx(0.0, abs=1e-9)  # cosine 0.70: still above the threshold
    assert loss(1.2) == pytest.approx(0.02, rel=1e-3)  # cosine 0.36: one threshold fewer


def test_thresholds_are_the_cosines_that_the_rates_exceed() -> None:
    cosines = torch.arange(100, dtype=torch.float32) / 100
    torch.testing.assert_close(match_thresholds(cosines, (0.1, 0.01, 1e-4)), torch.tensor([0.89, 0.98, 0.99]))


def test_running_thresholds_start_at_the_first_batch_follow_slowly_and_rest_in_eval(draw) -> None:
    module, labels = EkdLoss(rates=(0.5, 0.1), momentum=0.25), torch.tensor([0, 1, 2, 3])
    batches = [(torch.tensor(draw(4, 6)).float(), torch.tensor(draw(4, 3)).float()) for _ in range(2)]
    module(*batches[0], labels)
    first = match_thresholds(pair_cosines(batches[0][0]), (0.5, 0.1))
    torch.testing.assert_close(module.student_thresholds, first)
    module(*batches[1], labels)
    second = match_thresholds(pair_cosines(batches[1][0]), (0.5, 0.1))
    torch.testing.assert_close(module.student_thresholds, 0.75 * first + 0.25 * second)
    kept = module.teacher_thresholds.clone()
    module.eval()(*batches[0], labels)
    assert torch.equal(module.teacher_thresholds, kept)


def test_running_thresholds_and_loss_are_the_float32_ones_under_autocast(draw) -> None:
    student, teacher = torch.tensor(draw(12, 16)).float(), torch.tensor(draw(12, 8)).float()
    labels = torch.arange(12) // 2
    exact, lowered = EkdLoss(rates=(0.5, 0.1, 0.02)), EkdLoss(rates=(0.5, 0.1, 0.02))
    wanted = exact(student, teacher, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lowered(student, teacher, labels)
    torch.testing.assert_close(lowered.student_thresholds, exact.student_thresholds, rtol=0, atol=1e-6)
    torch.testing.assert_close(lowered.teacher_thresholds, exact.teacher_thresholds, rtol=0, atol=1e-6)
    torch.testing.assert_close(found, wanted)


def test_unknown_people_make_no_pairs_and_a_batch_without_pairs_gives_zero(draw) -> None:
    mated, non_mated = pair_kinds(torch.tensor([0, 0, -1, -1]))
    assert (int(mated.sum()), int(non_mated.sum())) == (1, 0)
    student = torch.tensor(draw(2, 4), requires_grad=True)
    loss = EkdLoss()(student, torch.tensor(draw(2, 4)), torch.tensor([-1, -1]))
    loss.backward()
    assert loss.item() == 0.0


def test_rates_must_be_shares() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        EkdLoss(rates=(1e-3, 2.0))
