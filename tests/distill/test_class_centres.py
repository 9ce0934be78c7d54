"""Teacher centres as a classifier, MarginDistillation and AdaDistill: against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facekd.distill.adaptive_centres import AdaDistillLoss, adadistill_loss, keep_shares
from facekd.distill.class_centres import (
    TeacherCentresLoss,
    angular_margin_logits,
    centre_loss,
    class_centres,
    move_centres,
)
from facekd.distill.margin_distillation import MarginDistillationLoss, margin_distillation_loss, teacher_margins
from facekd.errors import ConfigError

LABELS = np.array([0, 2, -1, 1, 2])


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def reference_centre(student, centres, labels, margins, scale) -> float:
    losses = []
    for i, label in enumerate(labels):
        if label < 0:
            continue
        margin = margins[i] if isinstance(margins, np.ndarray) else margins
        logits = []
        for j, centre in enumerate(centres):
            angle = np.arccos(unit(student[i]) @ unit(centre))
            if j == label:
                moved = np.cos(angle + margin) if angle < np.pi - margin else np.cos(angle) - margin * np.sin(margin)
                logits.append(scale * moved)
            else:
                logits.append(scale * np.cos(angle))
        logits = np.array(logits)
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
    return float(np.mean(losses))


def reference_margin_distillation(student, teacher, centres, labels, least, most, scale) -> float:
    near = np.array(
        [
            max(0.0, unit(t) @ unit(centres[label])) if label >= 0 else 0.0
            for t, label in zip(teacher, labels, strict=True)
        ]
    )
    return reference_centre(student, centres, labels, (most - least) / near.max() * near + least, scale)


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.5])
def test_centre_loss_agrees_with_loops_also_beyond_the_fallback(agrees, draw, margin: float) -> None:
    assert agrees(centre_loss, reference_centre, draw(5, 4), draw(3, 4), LABELS, margin, 8.0) > 0


def test_margin_distillation_agrees_with_loops(agrees, draw) -> None:
    rest = (draw(5, 4), draw(3, 4), LABELS, 0.2, 0.5, 8.0)
    assert agrees(margin_distillation_loss, reference_margin_distillation, draw(5, 4), *rest) > 0


def test_margins_run_from_least_to_most_with_the_teachers_certainty() -> None:
    centres = torch.eye(3)
    teacher = torch.tensor([[1.0, 0, 0], [0, 1.0, 1.0], [0, 0, 1.0], [-1.0, 0, 0]])
    margins = teacher_margins(teacher, centres, torch.tensor([0, 1, -1, 0]))
    torch.testing.assert_close(margins, torch.tensor([0.5, 0.2 + 0.3 * 0.5**0.5, 0.2, 0.2]))


def test_losses_vanish_on_the_centres_and_gradients_are_finite_there() -> None:
    centres = torch.eye(8)[:4]
    labels = torch.tensor([0, 1, 2, 3])
    for loss in (
        lambda s: centre_loss(s, centres, labels),
        lambda s: margin_distillation_loss(s, centres, centres, labels),
        lambda s: AdaDistillLoss(centres).eval()(s, centres, labels),
    ):
        student = (3 * centres).clone().requires_grad_()
        value = loss(student)
        value.backward()
        assert value.item() < 1e-12
        assert torch.isfinite(student.grad).all()
        opposite = (-centres).clone().requires_grad_()
        loss(opposite).backward()
        assert torch.isfinite(opposite.grad).all()


def test_the_target_logit_never_rises_with_the_angle() -> None:
    angles = torch.linspace(0, np.pi, 200, dtype=torch.float64)
    logits = angular_margin_logits(angles.cos().unsqueeze(1), torch.zeros(200, dtype=torch.long), 0.5, 1.0)
    assert (logits.squeeze(1).diff() < 1e-6).all()


def test_photographs_of_unknown_people_teach_nothing(draw) -> None:
    student = torch.tensor(draw(2, 4), requires_grad=True)
    loss = centre_loss(student, torch.tensor(draw(3, 4)), torch.tensor([-1, -1]))
    loss.backward()
    assert loss.item() == 0.0
    assert not student.grad.any()


def test_class_centres_are_mean_directions_of_the_labelled(draw) -> None:
    embeddings = draw(5, 4)
    found = class_centres(torch.tensor(embeddings), torch.tensor(LABELS), 3)
    wanted = unit(unit(embeddings[1]) + unit(embeddings[4]))
    np.testing.assert_allclose(found[2].numpy(), wanted, atol=1e-6)
    with pytest.raises(ConfigError, match="person 3 of 4"):
        class_centres(torch.tensor(embeddings), torch.tensor(LABELS), 4)
    with pytest.raises(ConfigError, match="label 2 is beyond"):
        class_centres(torch.tensor(embeddings), torch.tensor(LABELS), 2)


def test_moving_centres_average_the_proposals_of_one_person(draw) -> None:
    centres = F.normalize(torch.tensor(draw(3, 4)), dim=1)
    before, teacher = centres.clone(), torch.tensor(draw(5, 4))
    move_centres(centres, teacher, torch.tensor(LABELS), torch.full((5,), 0.9))
    proposals = [0.9 * before[2] + 0.1 * F.normalize(teacher[i], dim=0) for i in (1, 4)]
    torch.testing.assert_close(centres[2], F.normalize((proposals[0] + proposals[1]) / 2, dim=0))
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_frozen_centres_stay_and_moving_ones_move_only_in_training(draw) -> None:
    student, teacher = torch.tensor(draw(5, 4)).float(), torch.tensor(draw(5, 4)).float()
    labels, centres = torch.tensor(LABELS), torch.tensor(draw(3, 4)).float()
    frozen, moving = TeacherCentresLoss(centres), TeacherCentresLoss(centres, momentum=0.5)
    kept = frozen.centres.clone()
    assert frozen(student, teacher, labels) == moving.eval()(student, teacher, labels)
    assert torch.equal(moving.centres, kept)
    moving.train()(student, teacher, labels)
    assert torch.equal(frozen.centres, kept)
    assert not torch.allclose(moving.centres, kept)
    assert not list(moving.parameters())
    assert "centres" in moving.state_dict()


def test_adadistill_shares_by_hand_and_the_move_before_the_loss(draw) -> None:
    student, teacher, centres = draw(5, 4), draw(5, 4), draw(3, 4)
    labels = LABELS.copy()
    found = keep_shares(*(torch.tensor(item) for item in (student, teacher, centres, labels)))
    for i, label in enumerate(labels):
        if label < 0:
            continue
        typical = np.clip(unit(centres[label]) @ unit(teacher[i]), 1e-6, 1)
        assert found[i].item() == pytest.approx(np.clip(typical * (unit(student[i]) @ unit(teacher[i])), 1e-6, 1))
    module = AdaDistillLoss(torch.tensor(centres), scale=8.0).double()
    expected = torch.tensor(centres / np.linalg.norm(centres, axis=1, keepdims=True))
    expected = expected.float().double()
    shares = keep_shares(torch.tensor(student), torch.tensor(teacher), expected, torch.tensor(labels))
    move_centres(expected, torch.tensor(teacher), torch.tensor(labels), shares)
    value = module(torch.tensor(student), torch.tensor(teacher), torch.tensor(labels))
    assert value.item() == pytest.approx(reference_centre(student, expected.numpy(), labels, 0.5, 8.0), rel=1e-6)
    torch.testing.assert_close(module.centres, expected)


def test_adadistill_moves_a_copy_and_its_gradient_is_that_at_the_moved_centres(draw) -> None:
    student, teacher = torch.tensor(draw(5, 4), requires_grad=True), torch.tensor(draw(5, 4), requires_grad=True)
    centres, labels = F.normalize(torch.tensor(draw(3, 4)), dim=1), torch.tensor(LABELS)
    kept = centres.clone()
    loss, moved = adadistill_loss(student, teacher, centres, labels, 0.4, 8.0)
    assert torch.equal(centres, kept)
    assert not torch.allclose(moved, kept)
    (gradient,) = torch.autograd.grad(loss, student)
    wanted = centre_loss(student, moved, labels, 0.4, 8.0)
    assert loss.item() == wanted.item()
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, student)[0])
    assert not moved.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = [value.detach().bfloat16() for value in (student, teacher)]
        low, there = adadistill_loss(*rounded, centres.float(), labels, 0.4, 8.0)
    exact, wanted_there = adadistill_loss(*(value.float() for value in rounded), centres.float(), labels, 0.4, 8.0)
    assert low.item() == exact.item()
    assert torch.equal(there, wanted_there)


def test_adadistill_gradient_and_autocast_agree_with_loops(agrees, draw) -> None:
    centres, teacher = draw(3, 4), draw(5, 4)
    centres = torch.tensor(centres).bfloat16().double().numpy()

    def loss(student, known, labels):
        module = AdaDistillLoss(torch.tensor(centres), scale=8.0)
        module.centres = F.normalize(torch.tensor(centres), dim=1).to(
            known.dtype if known.dtype != torch.bfloat16 else torch.float32
        )
        return module.eval()(student, known, labels)

    agrees(loss, lambda s, t, y: reference_centre(s, centres, y, 0.5, 8.0), draw(5, 4), teacher, LABELS)


def test_a_student_far_from_its_teacher_makes_the_centre_the_photograph_itself() -> None:
    teacher = torch.tensor([[0.0, 1.0]])
    module = AdaDistillLoss(torch.tensor([[1.0, 0.2]]))
    module(torch.tensor([[0.0, -1.0]]), teacher, torch.tensor([0]))
    torch.testing.assert_close(module.centres, teacher, atol=1e-5, rtol=0)


def test_modules_are_the_functions_and_misuse_is_refused(draw) -> None:
    student, teacher = torch.tensor(draw(5, 4)).float(), torch.tensor(draw(5, 4)).float()
    centres, labels = torch.tensor(draw(3, 4)).float(), torch.tensor(LABELS)
    module = MarginDistillationLoss(centres, 0.1, 0.4, 16.0)
    wanted = margin_distillation_loss(student, teacher, centres, labels, 0.1, 0.4, 16.0)
    assert module(student, teacher, labels).item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.manual_seed(0)
    drawn = AdaDistillLoss(centres, random_start=True).centres
    assert drawn.shape == centres.shape
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(len(centres)))
    assert (F.cosine_similarity(drawn, centres, dim=1) < 0.99).all()
    torch.manual_seed(0)
    assert torch.equal(AdaDistillLoss(centres, random_start=True).centres, drawn)
    with pytest.raises(ValueError, match="least <= most"):
        MarginDistillationLoss(centres, 0.5, 0.2)
    with pytest.raises(ValueError, match="adapter"):
        centre_loss(torch.zeros(1, 512), centres, torch.tensor([0]))
    with pytest.raises(ValueError, match="momentum"):
        TeacherCentresLoss(centres, momentum=1.0)
