"""Similarity matrices, RKD and InfoNCE: against loops over pairs and triples."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from facekd.distill.relation import (
    ContrastiveLoss,
    RkdAngleLoss,
    RkdDistanceLoss,
    SimilarityMatrixLoss,
    contrastive_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    similarity_matrix_loss,
)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def reference_similarity(student, teacher) -> float:
    pairs = list(permutations(range(len(student)), 2))
    return float(np.mean([(cosine(student[i], student[j]) - cosine(teacher[i], teacher[j])) ** 2 for i, j in pairs]))


def reference_distance(student, teacher) -> float:
    pairs = list(combinations(range(len(student)), 2))
    seen = np.array([np.linalg.norm(student[i] - student[j]) for i, j in pairs])
    known = np.array([np.linalg.norm(teacher[i] - teacher[j]) for i, j in pairs])
    return float(np.mean([huber(a - b) for a, b in zip(seen / seen.mean(), known / known.mean(), strict=True)]))


def reference_angle(student, teacher) -> float:
    losses = []
    for j in range(len(student)):
        for i, k in permutations([p for p in range(len(student)) if p != j], 2):
            seen = cosine(student[i] - student[j], student[k] - student[j])
            losses.append(huber(seen - cosine(teacher[i] - teacher[j], teacher[k] - teacher[j])))
    return float(np.mean(losses))


def reference_contrastive(student, teacher, temperature, labels=None) -> float:
    total = 0.0
    for i in range(len(student)):
        scores = []
        for j in range(len(student)):
            if j != i and labels is not None and labels[i] == labels[j] >= 0:
                continue
            scores.append(np.exp(cosine(student[i], teacher[j]) / temperature))
        total -= np.log(np.exp(cosine(student[i], teacher[i]) / temperature) / sum(scores))
    return total / len(student)


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        (similarity_matrix_loss, reference_similarity),
        (rkd_distance_loss, reference_distance),
        (rkd_angle_loss, reference_angle),
    ],
)
def test_relations_agree_with_loops_across_dimensions(agrees, draw, loss, reference) -> None:
    assert agrees(loss, reference, draw(5, 4), draw(5, 7)) > 0


def test_contrastive_agrees_with_loops(agrees, draw) -> None:
    student, teacher = draw(5, 4), draw(5, 4)
    plain = agrees(contrastive_loss, reference_contrastive, student, teacher, 0.5)
    fewer = agrees(contrastive_loss, reference_contrastive, student, teacher, 0.5, np.array([3, 3, -1, -1, 0]))
    assert fewer < plain  # the second photograph of a person is no negative; two unknown people are


@pytest.mark.parametrize("loss", [similarity_matrix_loss, rkd_distance_loss, rkd_angle_loss])
def test_relations_vanish_for_a_turned_and_scaled_copy(draw, loss) -> None:
    teacher = torch.tensor(draw(6, 4))
    turn, _ = torch.linalg.qr(torch.tensor(draw(4, 4)))
    student = (2.5 * teacher @ turn).requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert student.grad.abs().max() < 1e-6


def test_rkd_also_ignores_a_shift(draw) -> None:
    teacher = torch.tensor(draw(6, 4))
    for loss in (rkd_distance_loss, rkd_angle_loss):
        assert loss(3 * teacher + 1, teacher).item() == pytest.approx(0.0, abs=1e-12)


def test_maps_count_as_one_row_a_photograph(draw) -> None:
    student, teacher = torch.tensor(draw(4, 2, 3, 3)), torch.tensor(draw(4, 2, 3, 3))
    for loss in (similarity_matrix_loss, rkd_distance_loss, rkd_angle_loss, contrastive_loss):
        assert loss(student, teacher) == loss(student.flatten(1), teacher.flatten(1))


@pytest.mark.parametrize("loss", [similarity_matrix_loss, rkd_distance_loss, rkd_angle_loss])
def test_gradients_are_finite_with_equal_photographs(draw, loss) -> None:
    teacher = torch.tensor(draw(5, 4))
    student = torch.tensor(draw(5, 4))
    student[1] = student[0]
    student.requires_grad_()
    loss(student, teacher).backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() < 1e3
    collapsed = torch.ones(5, 4, dtype=torch.float64, requires_grad=True)
    loss(collapsed, teacher).backward()
    assert torch.isfinite(collapsed.grad).all()


def test_contrastive_is_small_only_at_the_photographs_own_teacher(draw) -> None:
    teacher = torch.eye(4, dtype=torch.float64)
    best = contrastive_loss(teacher, teacher, 0.1).item()
    assert best == pytest.approx(np.log(1 + 3 * np.exp(-10)))
    assert all(contrastive_loss(torch.tensor(draw(4, 4)), teacher, 0.1).item() > 10 * best for _ in range(20))
    swapped = contrastive_loss(teacher[[1, 0, 2, 3]], teacher, 0.1).item()
    assert swapped == pytest.approx(best + 5.0)  # two of four photographs are 10 logits off


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: similarity_matrix_loss(torch.zeros(1, 3), torch.zeros(1, 3)), "at least 2"),
        (lambda: rkd_angle_loss(torch.zeros(2, 3), torch.zeros(2, 3)), "at least 3"),
        (lambda: rkd_distance_loss(torch.zeros(3, 3), torch.zeros(4, 3)), "same photographs"),
        (lambda: contrastive_loss(torch.zeros(3, 3), torch.zeros(3, 4)), "adapter"),
        (lambda: similarity_matrix_loss(torch.zeros(3), torch.zeros(3)), "N, D"),
        (lambda: ContrastiveLoss(0.0), "above 0"),
    ],
)
def test_misuse_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_modules_are_the_functions(draw) -> None:
    student, teacher = torch.tensor(draw(4, 3)), torch.tensor(draw(4, 3))
    assert SimilarityMatrixLoss()(student, teacher) == similarity_matrix_loss(student, teacher)
    assert RkdDistanceLoss()(student, teacher) == rkd_distance_loss(student, teacher)
    assert RkdAngleLoss()(student, teacher) == rkd_angle_loss(student, teacher)
    assert ContrastiveLoss(0.2)(student, teacher) == contrastive_loss(student, teacher, 0.2)
