"""Detector imitation: scores per anchor, codes and GIoU, each against loops; the run time's codec agrees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekd.detection.codec import decode_boxes
from facekd.distill.detection import (
    DetectionImitationLoss,
    code_imitation_loss,
    decode,
    generalised_iou,
    giou_imitation_loss,
    score_imitation_loss,
    sigmoid_kl,
)

PROBABILITIES = np.array([[0.95, 0.6, 0.3, 0.04, 0.01], [0.02, 0.03, 0.001, 0.7, 0.2]])


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def binary_kl(logit: float, probability: float, temperature: float) -> float:
    p, q = sigmoid(np.log(probability / (1 - probability)) / temperature), sigmoid(logit / temperature)
    return temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


def reference_scores(student, teacher, temperature, foreground, background, ratio, least) -> float:
    faces, empties = [], []
    for logit, probability in zip(student.ravel(), teacher.ravel(), strict=True):
        if probability >= foreground:
            faces.append(binary_kl(logit, probability, temperature))
        elif probability <= background:
            empties.append(binary_kl(logit, probability, temperature))
    kept = sorted(empties, reverse=True)[: max(round(ratio * len(faces)), least)]
    return (sum(faces) + sum(kept)) / max(1, len(faces))


def smooth_l1(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def reference_codes(student, teacher, probabilities, foreground) -> float:
    total = weights = 0.0
    for place in np.ndindex(probabilities.shape):
        if probabilities[place] >= foreground:
            distance = sum(smooth_l1(a - b) for a, b in zip(student[place], teacher[place], strict=True))
            total, weights = total + probabilities[place] * distance, weights + probabilities[place]
    return total / weights


def giou_by_hand(a, b) -> float:
    def area(x1, y1, x2, y2):
        return max(0.0, x2 - x1) * max(0.0, y2 - y1)

    inner = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    outer = area(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    union = area(*a) + area(*b) - inner
    return inner / union - (outer - union) / outer


def reference_giou(student, teacher, probabilities, foreground) -> float:
    places = [p for p in np.ndindex(probabilities.shape) if probabilities[p] >= foreground]
    weights = [probabilities[p] for p in places]
    apart = [1 - giou_by_hand(student[p], teacher[p]) for p in places]
    return float(np.average(apart, weights=weights))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("ratio", "least"), [(1.0, 1), (7.0, 32), (0.0, 2)])
def test_scores_agree_with_loops(agrees, draw, temperature: float, ratio: float, least: int) -> None:
    rest = (temperature, 0.5, 0.05, ratio, least)
    assert agrees(score_imitation_loss, reference_scores, 2 * draw(2, 5), PROBABILITIES, *rest) > 0


def test_scores_vanish_where_the_student_agrees_and_ignore_where_the_teacher_is_undecided() -> None:
    teacher = torch.tensor(PROBABILITIES)
    student = torch.logit(teacher).requires_grad_()
    assert score_imitation_loss(student, teacher).item() == pytest.approx(0.0, abs=1e-12)
    changed = student.detach().clone()
    changed[0, 2], changed[1, 4] = 9.0, -9.0  # 0.3 and 0.2: neither a face nor clearly none
    assert score_imitation_loss(changed, teacher).item() == pytest.approx(0.0, abs=1e-12)
    changed[0, 0] = 0.0
    assert score_imitation_loss(changed, teacher).item() > 0.1


def test_background_teaches_also_without_any_face_and_saturated_teachers_give_no_infinity() -> None:
    student = torch.tensor([[3.0, -2.0, 0.0]], requires_grad=True)
    loss = score_imitation_loss(student, torch.tensor([[0.0, 0.01, 0.04]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad[0, 0] > 0.5
    assert torch.isfinite(sigmoid_kl(torch.tensor([0.0, 50.0]), torch.tensor([1.0, 0.0]))).all()


def test_codes_agree_with_loops(agrees, draw) -> None:
    for numbers in (4, 10):
        codes = draw(2, 5, numbers), draw(2, 5, numbers)
        assert agrees(code_imitation_loss, reference_codes, *codes, PROBABILITIES, 0.5) > 0


def test_giou_agrees_with_loops(agrees, draw) -> None:
    corners, others = np.abs(draw(2, 5, 2)) * 10, np.abs(draw(2, 5, 2)) * 10
    student = np.concatenate([corners, corners + 5 + np.abs(draw(2, 5, 2))], axis=-1)
    teacher = np.concatenate([others, others + 5 + np.abs(draw(2, 5, 2))], axis=-1)
    assert 0 < agrees(giou_imitation_loss, reference_giou, student, teacher, PROBABILITIES, 0.5) < 2


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0.0),  # touching: nothing shared, nothing wasted
        ((0, 0, 1, 1), (3, 0, 4, 1), -0.5),  # half of the enclosing box is empty
    ],
)
def test_giou_of_known_boxes(first, second, expected: float) -> None:
    found = generalised_iou(torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64))
    assert found.item() == pytest.approx(expected)


def test_decoding_is_the_run_times(draw) -> None:
    anchors = np.array([[8.0, 8.0, 16.0, 16.0], [40.0, 24.0, 64.0, 64.0]], dtype=np.float32)
    codes = draw(3, 2, 4) * 3
    codes[0, 0, 2] = 100.0  # beyond the largest side
    found = decode(torch.tensor(codes), torch.tensor(anchors))
    np.testing.assert_allclose(found.numpy(), decode_boxes(codes, anchors), rtol=1e-6)


def test_the_module_adds_its_terms_and_is_zero_at_the_teacher(draw) -> None:
    logits, boxes, landmarks = torch.tensor(draw(2, 5)), torch.tensor(draw(2, 5, 4)), torch.tensor(draw(2, 5, 10))
    teacher = (torch.tensor(PROBABILITIES), torch.tensor(draw(2, 5, 4)), torch.tensor(draw(2, 5, 10)))
    anchors = torch.tensor([[8.0, 8.0, 16.0, 16.0]]).expand(5, 4)
    module = DetectionImitationLoss(giou_weight=2.0, box_weight=3.0)
    wanted = score_imitation_loss(logits, teacher[0]) + 3 * code_imitation_loss(boxes, teacher[1], teacher[0])
    wanted += 0.5 * code_imitation_loss(landmarks, teacher[2], teacher[0])
    wanted += 2 * giou_imitation_loss(decode(boxes, anchors), decode(teacher[1], anchors), teacher[0])
    assert module((logits, boxes, landmarks), teacher, anchors).item() == pytest.approx(wanted.item())
    same = (torch.logit(teacher[0]), teacher[1], teacher[2])
    assert module(same, teacher, anchors).item() == pytest.approx(0.0, abs=1e-9)


def decoded_by_hand(codes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    boxes = np.empty_like(codes)
    for place in np.ndindex(codes.shape[:2]):
        (cx, cy, width, height), (dx, dy, dw, dh) = anchors[place[1]], codes[place]
        x, y = cx + 0.1 * dx * width, cy + 0.1 * dy * height
        half_width, half_height = width * np.exp(0.2 * dw) / 2, height * np.exp(0.2 * dh) / 2
        boxes[place] = x - half_width, y - half_height, x + half_width, y + half_height
    return boxes


def reference_sum(student, teacher, anchors) -> float:
    scores = reference_scores(student[0], teacher[0], 2.0, 0.5, 0.05, 7.0, 32)
    boxes, points = (reference_codes(student[k], teacher[k], teacher[0], 0.5) for k in (1, 2))
    seen, known = (decoded_by_hand(side[1], anchors) for side in (student, teacher))
    return scores + 3 * boxes + 0.5 * points + 2 * reference_giou(seen, known, teacher[0], 0.5)


def test_the_sum_agrees_with_loops_through_decoding_also_under_bf16(agrees, draw) -> None:
    student = (2 * draw(2, 5), draw(2, 5, 4), draw(2, 5, 10))
    teacher = (PROBABILITIES, student[1] + 2 * draw(2, 5, 4), draw(2, 5, 10))
    anchors = np.array([[8.0, 8.0, 16.0, 16.0], [40.0, 24.0, 64.0, 64.0], [80.0, 96.0, 32.0, 32.0]] * 2)[:5]
    module = DetectionImitationLoss(temperature=2.0, box_weight=3.0, giou_weight=2.0)
    assert agrees(module, reference_sum, student, teacher, anchors) > 0


def test_boxes_are_decoded_in_float32_from_bf16_codes(draw) -> None:
    codes, anchors = torch.tensor(draw(20, 4)).bfloat16(), torch.tensor([[40.0, 24.0, 64.0, 64.0]])
    torch.testing.assert_close(decode(codes, anchors), decode(codes.float(), anchors), rtol=0, atol=0)


def test_misuse_is_refused(draw) -> None:
    parts = torch.zeros(1, 2), torch.zeros(1, 2, 4), torch.zeros(1, 2, 10)
    with pytest.raises(ValueError, match="probabilities"):
        DetectionImitationLoss()(parts, (torch.tensor([[3.0, -2.0]]), *parts[1:]))
    with pytest.raises(ValueError, match="anchors"):
        DetectionImitationLoss(giou_weight=1.0)(parts, parts)
    with pytest.raises(ValueError, match="background < foreground"):
        DetectionImitationLoss(foreground=0.1, background=0.2)
    with pytest.raises(ValueError, match="anchors"):
        code_imitation_loss(parts[1], parts[1], torch.zeros(1, 3))
