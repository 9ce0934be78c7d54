"""Soft labels, soft and hard mixed, logits: against per-sample loops written from the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facekd.distill.response import LogitMseLoss, SoftHardLoss, SoftLabelLoss, kl_soft_label, logit_mse, soft_hard_mix


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def reference_kl(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    total = 0.0
    for seen, known in zip(student, teacher, strict=True):
        q, p = softmax(seen / temperature), softmax(known / temperature)
        total += sum(p[c] * (np.log(p[c]) - np.log(q[c])) for c in range(len(p)))
    return temperature**2 * total / len(student)


def reference_mix(student, teacher, labels, alpha, temperature) -> float:
    hard = -np.mean([np.log(softmax(row)[label]) for row, label in zip(student, labels, strict=True)])
    return alpha * reference_kl(student, teacher, temperature) + (1 - alpha) * hard


def reference_mse(student, teacher, centred) -> float:
    total = 0.0
    for seen, known in zip(student, teacher, strict=True):
        difference = seen - known - (seen.mean() - known.mean() if centred else 0.0)
        total += np.mean(difference**2)
    return total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kl_is_the_papers_formula(agrees, draw, temperature: float) -> None:
    assert agrees(kl_soft_label, reference_kl, draw(5, 3), draw(5, 3), temperature) > 0


def test_kl_gradient_is_temperature_times_the_difference_of_probabilities(draw) -> None:
    # Hinton et al., equation 2: dC/dz = (q - p) / T for the plain cross-entropy, so T (q - p) / N after T squared.
    student, teacher = torch.tensor(draw(4, 3), requires_grad=True), torch.tensor(draw(4, 3))
    kl_soft_label(student, teacher, 3.0).backward()
    expected = 3.0 * (F.softmax(student / 3, dim=1) - F.softmax(teacher / 3, dim=1)) / 4
    torch.testing.assert_close(student.grad, expected.detach())


def test_kl_is_zero_with_equal_distributions_and_positive_otherwise(draw) -> None:
    teacher = torch.tensor(draw(6, 3))
    assert kl_soft_label(teacher + 7.0, teacher).item() == pytest.approx(0.0, abs=1e-12)
    assert all(kl_soft_label(torch.tensor(draw(6, 3)), teacher).item() > 0 for _ in range(20))


def test_kl_weights_are_a_weighted_mean(draw) -> None:
    student, teacher = torch.tensor(draw(3, 4)), torch.tensor(draw(3, 4))
    each = [kl_soft_label(student[i : i + 1], teacher[i : i + 1]).item() for i in range(3)]
    weighted = kl_soft_label(student, teacher, weights=torch.tensor([1.0, 0.0, 3.0]))
    assert weighted.item() == pytest.approx((each[0] + 3 * each[2]) / 4)
    assert kl_soft_label(student, teacher, weights=torch.zeros(3)).item() == 0.0
    with pytest.raises(ValueError, match="one a sample"):
        kl_soft_label(student, teacher, weights=torch.ones(2))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_mix_is_the_papers_formula(agrees, draw, alpha: float) -> None:
    agrees(soft_hard_mix, reference_mix, draw(5, 3), draw(5, 3), np.array([0, 2, 1, 1, 0]), alpha, 4.0)


def test_mix_takes_label_probabilities_as_mixup_makes_them(draw) -> None:
    student, teacher, labels = torch.tensor(draw(4, 3)), torch.tensor(draw(4, 3)), torch.tensor([0, 1, 2, 0])
    shares = F.one_hot(labels, 3).double()
    assert soft_hard_mix(student, teacher, shares).item() == pytest.approx(
        soft_hard_mix(student, teacher, labels).item()
    )


@pytest.mark.parametrize("centred", [False, True])
def test_logit_mse(agrees, draw, centred: bool) -> None:
    agrees(logit_mse, reference_mse, draw(5, 3), draw(5, 3), centred)


def test_logit_mse_is_zero_when_equal_and_centred_ignores_an_offset(draw) -> None:
    teacher = torch.tensor(draw(5, 3))
    offset = torch.tensor(draw(5, 1))
    assert logit_mse(teacher, teacher).item() == 0.0
    assert logit_mse(teacher + offset, teacher).item() > 0.0
    assert logit_mse(teacher + offset, teacher, centred=True).item() == pytest.approx(0.0, abs=1e-12)


def test_soft_labels_become_centred_logit_mse_when_hot(draw) -> None:
    # Hinton et al., section 2.1: for T to infinity T^2 KL tends to half the centred squared difference over C.
    student, teacher = torch.tensor(draw(5, 3)), torch.tensor(draw(5, 3))
    assert kl_soft_label(student, teacher, 1e4).item() == pytest.approx(
        logit_mse(student, teacher, centred=True).item() / 2, rel=1e-3
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kl_soft_label(torch.zeros(2, 3), torch.zeros(2, 4)), r"\(2, 3\).*\(2, 4\)"),
        (lambda: kl_soft_label(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1)), "2 axes"),
        (lambda: kl_soft_label(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0.0), "above 0"),
        (lambda: SoftLabelLoss(-1.0), "above 0"),
        (lambda: SoftHardLoss(alpha=1.5), "0..1"),
        (lambda: soft_hard_mix(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), alpha=-0.1), "0..1"),
    ],
)
def test_misuse_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_modules_are_the_functions(draw) -> None:
    student, teacher, labels = torch.tensor(draw(4, 3)), torch.tensor(draw(4, 3)), torch.tensor([0, 1, 2, 0])
    assert SoftLabelLoss(2.0)(student, teacher) == kl_soft_label(student, teacher, 2.0)
    assert SoftHardLoss(0.4, 2.0)(student, teacher, labels) == soft_hard_mix(student, teacher, labels, 0.4, 2.0)
    assert LogitMseLoss(centred=True)(student, teacher) == logit_mse(student, teacher, centred=True)
