"""Cosine and angular imitation of embeddings, also at the edges of the cosine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekd.distill.embedding import (
    AngularEmbeddingLoss,
    CosineEmbeddingLoss,
    angular_embedding_loss,
    cosine_embedding_loss,
)


def cosines(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    return np.array([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(student, teacher, strict=True)])


def test_cosine_agrees_with_the_formula(agrees, draw) -> None:
    agrees(cosine_embedding_loss, lambda s, t: float(np.mean(1 - cosines(s, t))), draw(5, 4), draw(5, 4))


def test_angle_agrees_with_arccos_away_from_its_poles(agrees, draw) -> None:
    agrees(angular_embedding_loss, lambda s, t: float(np.mean(np.arccos(cosines(s, t)))), draw(5, 4), draw(5, 4))


@pytest.mark.parametrize("loss", [cosine_embedding_loss, angular_embedding_loss])
def test_zero_for_the_same_direction_whatever_the_length(draw, loss) -> None:
    teacher = torch.tensor(draw(5, 4))
    assert loss(3.0 * teacher, teacher).item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("loss", [cosine_embedding_loss, angular_embedding_loss])
@pytest.mark.parametrize("factor", [1.0, -1.0, 0.0])
def test_gradients_are_finite_at_cosine_one_minus_one_and_for_a_zero_vector(draw, loss, factor: float) -> None:
    teacher = torch.tensor(draw(5, 4)).float()
    student = (factor * teacher).requires_grad_()
    loss(student, teacher).backward()
    assert torch.isfinite(student.grad).all()


def test_angles_pull_opposite_embeddings_harder_than_cosines(draw) -> None:
    teacher = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    gradients = []
    for loss in (cosine_embedding_loss, angular_embedding_loss):
        student = torch.tensor([[-0.999, 0.045]], dtype=torch.float64, requires_grad=True)
        loss(student, teacher).backward()
        gradients.append(student.grad.norm().item())
    assert gradients[1] > 10 * gradients[0]


def test_weights_and_modules(draw) -> None:
    student, teacher = torch.tensor(draw(3, 4)), torch.tensor(draw(3, 4))
    weights = torch.tensor([0.0, 2.0, 0.0])
    for loss, module in (
        (cosine_embedding_loss, CosineEmbeddingLoss()),
        (angular_embedding_loss, AngularEmbeddingLoss()),
    ):
        assert loss(student, teacher, weights).item() == pytest.approx(loss(student[1:2], teacher[1:2]).item())
        assert module(student, teacher, weights) == loss(student, teacher, weights)


def test_dimensions_must_agree() -> None:
    with pytest.raises(ValueError, match="adapter"):
        cosine_embedding_loss(torch.zeros(2, 512), torch.zeros(2, 128))
