"""Imitation of a detector's answers: scores per anchor, coded boxes and landmarks, and decoded boxes by GIoU.

A detector's scores are no distribution over anchors: each anchor is one yes-or-no question. The teacher is asked only
where its answer is worth having: on *foreground* anchors, where it is confident of a face (probability >=
`foreground`), and on *background* anchors, where it is confident that there is none (probability <= `background`);
between the two it is undecided and the student is left alone. Background outnumbers faces a thousandfold, so of it only
those anchors count on which the student is worst, `background_ratio` for each foreground anchor of the batch (at least
one photograph's worth of `least_background` where there is no face).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.detection.codec import MAX_LOG_SIDE, VARIANCES
from facekd.distill.numerics import check_same_shape, float32_inside


@float32_inside
def sigmoid_kl(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float = 1.0) -> Tensor:
    """Binary KL divergence of each anchor, times T squared, both sides softened by T.

    The soft-label KL of Hinton et al. 2015, https://arxiv.org/abs/1503.02531, for one sigmoid instead of a softmax: the
    two-class softmax of (z, 0).

    Args:
        student_logits: any shape.
        teacher_probabilities: the same shape, 0..1 (detectors export probabilities); constants.
        temperature: T > 0.

    Returns:
        The same shape, each >= 0; 0 where both probabilities are equal.
    """
    check_same_shape(student_logits, teacher_probabilities, "scores")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    tiny = 1e-6  # an exported probability of exactly 0 or 1 has no logit
    teacher_logits = torch.logit(teacher_probabilities.detach(), eps=tiny) / temperature
    logits = student_logits / temperature
    target = torch.sigmoid(teacher_logits)
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(teacher_logits, target, reduction="none")
    return temperature**2 * (cross - entropy)


def teacher_regions(
    teacher_probabilities: Tensor, foreground: float = 0.5, background: float = 0.05
) -> tuple[Tensor, Tensor]:
    """Masks of the anchors where the teacher is confident of a face, and confident that there is none.

    Raises:
        ValueError: the two thresholds overlap.
    """
    if not 0.0 <= background < foreground <= 1.0:
        raise ValueError(f"wanted 0 <= background < foreground <= 1, got {background} and {foreground}")
    return teacher_probabilities >= foreground, teacher_probabilities <= background


@float32_inside
def score_imitation_loss(
    student_logits: Tensor,
    teacher_probabilities: Tensor,
    temperature: float = 1.0,
    foreground: float = 0.5,
    background: float = 0.05,
    background_ratio: float = 7.0,
    least_background: int = 32,
) -> Tensor:
    """Binary KL on the teacher's foreground and on the hardest of its clear background; see the module's text.

    Args:
        student_logits: (N, A) before the sigmoid.
        teacher_probabilities: (N, A) after it; constants.
        temperature: T > 0.
        foreground: least probability of an anchor that counts as a face.
        background: largest probability of an anchor that counts as clear background.
        background_ratio: background anchors kept for each foreground anchor.
        least_background: background anchors kept at least.

    Returns:
        Scalar >= 0: the sum over the chosen anchors, over the number of foreground anchors (at least 1). 0 when both
        networks agree there.
    """
    divergence = sigmoid_kl(student_logits, teacher_probabilities, temperature)
    is_face, is_background = teacher_regions(teacher_probabilities.detach(), foreground, background)
    faces = int(is_face.sum())
    candidates = divergence[is_background]
    kept = min(len(candidates), max(round(background_ratio * faces), least_background))
    hardest = candidates.topk(kept).values.sum() if kept else divergence.sum() * 0.0
    return (divergence[is_face].sum() + hardest) / max(faces, 1)


@float32_inside
def code_imitation_loss(
    student_codes: Tensor, teacher_codes: Tensor, teacher_probabilities: Tensor, foreground: float = 0.5
) -> Tensor:
    """Smooth L1 of coded boxes or landmarks on the teacher's foreground, weighted by its probability.

    Chen et al. 2017, "Learning Efficient Object Detection Models with Knowledge Distillation" (NIPS), section 3.4,
    imitate boxes too, but bounded by the truth; here the teacher's confidence decides how much its box counts.

    Args:
        student_codes: (N, A, 4) boxes or (N, A, 10) landmarks, coded.
        teacher_codes: the same shape; constants.
        teacher_probabilities: (N, A); constants.
        foreground: least probability of an anchor that counts.

    Returns:
        Scalar >= 0: sum over numbers, weighted mean over anchors; 0 when the codes agree, or no face is seen.
    """
    check_same_shape(student_codes, teacher_codes, "codes")
    check_same_shape(student_codes[..., 0], teacher_probabilities, "codes and scores (photographs, anchors)")
    weight = torch.where(teacher_probabilities >= foreground, teacher_probabilities, 0.0).detach()
    distance = F.smooth_l1_loss(student_codes, teacher_codes.detach(), reduction="none").sum(dim=-1)
    return (weight * distance).sum() / weight.sum().clamp_min(1e-6)


@float32_inside
def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes x1, y1, x2, y2 (…, 4) in pixels from codes and anchors cx, cy, w, h; `facekd.detection.codec` in torch."""
    centres = anchors[..., :2] + codes[..., :2] * VARIANCES[0] * anchors[..., 2:]
    halves = anchors[..., 2:] * (codes[..., 2:] * VARIANCES[1]).clamp_max(MAX_LOG_SIDE).exp() / 2
    return torch.cat([centres - halves, centres + halves], dim=-1)


@float32_inside
def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """GIoU of boxes, row by row: IoU minus the share of the smallest enclosing box that neither fills.

    Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630, algorithm 1.

    Args:
        first: (…, 4) x1, y1, x2, y2.
        second: the same shape.

    Returns:
        (…) in -1..1; 1 for equal boxes.
    """

    def area(boxes: Tensor) -> Tensor:
        return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(dim=-1)

    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp_min(0).prod(dim=-1)
    union = (area(first) + area(second) - intersection).clamp_min(1e-9)
    outer_low, outer_high = (
        torch.minimum(first[..., :2], second[..., :2]),
        torch.maximum(first[..., 2:], second[..., 2:]),
    )
    enclosing = (outer_high - outer_low).clamp_min(0).prod(dim=-1).clamp_min(1e-9)
    return intersection / union - (enclosing - union) / enclosing


@float32_inside
def giou_imitation_loss(
    student_boxes: Tensor, teacher_boxes: Tensor, teacher_probabilities: Tensor, foreground: float = 0.5
) -> Tensor:
    """One minus GIoU of the student's and the teacher's boxes on the teacher's foreground, weighted by its probability.

    Args:
        student_boxes: (N, A, 4) decoded, pixels (see `decode`).
        teacher_boxes: the same shape; constants.
        teacher_probabilities: (N, A); constants.
        foreground: least probability of an anchor that counts.

    Returns:
        Scalar in 0..2; 0 when the boxes agree, or no face is seen.
    """
    check_same_shape(student_boxes, teacher_boxes, "boxes")
    check_same_shape(student_boxes[..., 0], teacher_probabilities, "boxes and scores (photographs, anchors)")
    weight = torch.where(teacher_probabilities >= foreground, teacher_probabilities, 0.0).detach()
    apart = 1.0 - generalised_iou(student_boxes, teacher_boxes.detach())
    return (weight * apart).sum() / weight.sum().clamp_min(1e-6)


Answers = tuple[Tensor, Tensor, Tensor]
"""A detector's scores (N, A), box codes (N, A, 4) and landmark codes (N, A, 10)."""


def check_probabilities(scores: Tensor) -> None:
    """Raise ValueError unless a teacher's scores can be probabilities."""
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError(
            f"the teacher's scores must be probabilities in 0..1, got {float(scores.min()):.3g} to "
            f"{float(scores.max()):.3g}: give them after the sigmoid, as an exported detector does (a network that "
            "trains, and so its average, gives logits)"
        )


@float32_inside
def detection_imitation_loss(
    student: Answers,
    teacher: Answers,
    anchors: Tensor | None = None,
    temperature: float = 1.0,
    foreground: float = 0.5,
    background: float = 0.05,
    score_weight: float = 1.0,
    box_weight: float = 1.0,
    landmark_weight: float = 0.5,
    giou_weight: float = 0.0,
) -> Tensor:
    """Scores, boxes, landmarks and GIoU together: the weighted sum.

    Args:
        student: logits (N, A), box codes (N, A, 4), landmark codes (N, A, 10).
        teacher: *probabilities* (N, A), box codes, landmark codes, as the exported graph gives them; constants.
        anchors: (A, 4) cx, cy, w, h; needed when `giou_weight` is above 0.
        temperature: of the scores.
        foreground: least probability of an anchor on which the teacher is imitated as a face.
        background: largest probability of an anchor on which it is imitated as background.
        score_weight, box_weight, landmark_weight, giou_weight: of the four terms; 0 leaves a term out.

    Returns:
        Scalar >= 0; 0 when both detectors agree where the teacher is asked.

    Raises:
        ValueError: scores of the teacher that are no probabilities, missing anchors, or shapes that differ.
    """
    logits, boxes, landmarks = student
    probabilities, known_boxes, known_landmarks = (part.detach() for part in teacher)
    check_probabilities(probabilities)
    total = score_weight * score_imitation_loss(logits, probabilities, temperature, foreground, background)
    if box_weight:
        total = total + box_weight * code_imitation_loss(boxes, known_boxes, probabilities, foreground)
    if landmark_weight:
        total = total + landmark_weight * code_imitation_loss(landmarks, known_landmarks, probabilities, foreground)
    if giou_weight:
        if anchors is None:
            raise ValueError("GIoU imitation decodes the boxes and so needs the anchors")
        decoded, known = (decode(codes, anchors.detach()) for codes in (boxes, known_boxes))
        total = total + giou_weight * giou_imitation_loss(decoded, known, probabilities, foreground)
    return total


class DetectionImitationLoss(nn.Module):
    """`detection_imitation_loss` as a module; `temperature` may be changed by a schedule between steps."""

    def __init__(
        self,
        temperature: float = 1.0,
        foreground: float = 0.5,
        background: float = 0.05,
        score_weight: float = 1.0,
        box_weight: float = 1.0,
        landmark_weight: float = 0.5,
        giou_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        teacher_regions(torch.zeros(1), foreground, background)
        self.temperature, self.foreground, self.background = temperature, foreground, background
        self.score_weight, self.box_weight = score_weight, box_weight
        self.landmark_weight, self.giou_weight = landmark_weight, giou_weight

    def forward(self, student: Answers, teacher: Answers, anchors: Tensor | None = None) -> Tensor:
        """See `detection_imitation_loss`."""
        return detection_imitation_loss(
            student,
            teacher,
            anchors,
            self.temperature,
            self.foreground,
            self.background,
            self.score_weight,
            self.box_weight,
            self.landmark_weight,
            self.giou_weight,
        )
