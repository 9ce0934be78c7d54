"""Local alignment: patches against bilinear interpolation by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from facekd.distill.local import LocalAlignmentLoss, landmark_boxes, local_alignment_loss, patches


def sample(photograph: np.ndarray, x: float, y: float, stride: float) -> np.ndarray:
    """Bilinear value at pixel (x, y); cell (0, 0) has its centre at half a stride; the border repeats."""
    _, height, width = photograph.shape
    column, row = min(max(x / stride - 0.5, 0), width - 1), min(max(y / stride - 0.5, 0), height - 1)
    left, top = min(int(column), width - 2), min(int(row), height - 2)
    right_share, low_share = column - left, row - top
    upper = photograph[:, top, left] * (1 - right_share) + photograph[:, top, left + 1] * right_share
    lower = photograph[:, top + 1, left] * (1 - right_share) + photograph[:, top + 1, left + 1] * right_share
    return upper * (1 - low_share) + lower * low_share


def reference(student, teacher, boxes, photographs, stride, landmarks, size, share) -> float:
    places = [(box, n) for box, n in zip(boxes, photographs, strict=True)]
    for box, n, points in zip(boxes, photographs, landmarks, strict=True):
        half = share * max(box[2] - box[0], box[3] - box[1]) / 2
        places += [((x - half, y - half, x + half, y + half), n) for x, y in points if not math.isnan(x)]
    losses = []
    for (x1, y1, x2, y2), n in places:
        for row in range(size):
            for column in range(size):
                x, y = x1 + (x2 - x1) * (column + 0.5) / size, y1 + (y2 - y1) * (row + 0.5) / size
                seen, known = sample(student[n], x, y, stride), sample(teacher[n], x, y, stride)
                losses.append(1 - seen @ known / np.linalg.norm(seen) / np.linalg.norm(known))
    return float(np.mean(losses))


@pytest.fixture
def faces() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes = np.array([[4.0, 4.0, 24.0, 28.0], [-6.0, 10.0, 20.0, 40.0], [16.0, 0.0, 32.0, 16.0]])
    landmarks = np.full((3, 5, 2), np.nan)
    landmarks[0] = [[10, 12], [18, 12], [14, 16], [11, 22], [17, 22]]
    landmarks[2, 0] = [20, 6]
    return boxes, np.array([0, 1, 1]), landmarks


def test_agrees_with_loops(agrees, draw, faces) -> None:
    boxes, photographs, landmarks = faces
    rest = (boxes, photographs, 8.0, landmarks, 3, 0.25)
    assert agrees(local_alignment_loss, reference, draw(2, 3, 4, 5), draw(2, 3, 4, 5), *rest) > 0


def test_patches_of_a_ramp_are_the_coordinates_themselves() -> None:
    stride, columns = 8.0, torch.arange(8, dtype=torch.float64)
    ramp = ((columns + 0.5) * stride).expand(1, 1, 8, 8)
    found = patches(ramp, torch.tensor([[12.0, 20.0, 36.0, 44.0]]), torch.tensor([0]), stride, 3)
    torch.testing.assert_close(found[0, 0, 1], torch.tensor([16.0, 24.0, 32.0], dtype=torch.float64))


def test_patches_stay_in_the_order_of_their_boxes_and_no_map_is_copied_for_each(draw) -> None:
    features = torch.tensor(draw(3, 2, 16, 16), requires_grad=True)
    corners = torch.tensor(np.abs(draw(40, 2)) * 20)
    boxes, photographs = torch.cat([corners, corners + 24], dim=1), torch.arange(40) % 2 * 2
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved.numel()) or saved, lambda saved: saved
    ):
        found = patches(features, boxes, photographs, 8.0, 2)
    assert max(kept) <= features.numel()  # 40 maps would be 13 times as many
    one_by_one = [patches(features, boxes[k : k + 1], photographs[k : k + 1], 8.0, 2) for k in range(40)]
    torch.testing.assert_close(found, torch.cat(one_by_one))
    found.sum().backward()
    assert not features.grad[1].any()
    assert features.grad[2].any()


def test_boxes_of_no_photograph_are_refused_and_no_boxes_give_no_patches() -> None:
    features, box = torch.zeros(2, 3, 4, 4), torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert patches(features, box[:0], torch.zeros(0, dtype=torch.long), 8.0, 5).shape == (0, 3, 5, 5)
    for photographs in ([2], [-1]):
        with pytest.raises(ValueError, match="numbered 0 to 1"):
            patches(features, box, torch.tensor(photographs), 8.0, 5)
    with pytest.raises(ValueError, match="a photograph for each"):
        patches(features, box, torch.tensor([0, 1]), 8.0, 5)


def test_zero_when_directions_agree_on_the_faces_whatever_is_elsewhere(draw, faces) -> None:
    boxes, photographs, landmarks = (torch.tensor(item) for item in faces)
    teacher = torch.tensor(draw(2, 3, 12, 12))
    student = 4 * teacher
    student[:, :, 8:, 8:] = 99.0  # far from every face at stride 8
    found = local_alignment_loss(student, teacher, boxes, photographs, 8.0, landmarks)
    assert found.item() == pytest.approx(0.0, abs=1e-9)
    student[0, :, 1, 1] += 50.0
    assert local_alignment_loss(student, teacher, boxes, photographs, 8.0, landmarks).item() > 1e-3


def test_no_face_gives_zero_with_a_gradient(draw) -> None:
    student = torch.tensor(draw(1, 2, 4, 4), requires_grad=True)
    loss = LocalAlignmentLoss(8.0)(student, student.detach(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert not student.grad.any()


def test_landmark_boxes_skip_unknown_points(faces) -> None:
    boxes, photographs, landmarks = (torch.tensor(item) for item in faces)
    squares, owners = landmark_boxes(boxes, landmarks, photographs, 0.5)
    assert squares.shape == (6, 4)
    assert owners.tolist() == [0, 0, 0, 0, 0, 1]
    assert squares[5].tolist() == [16.0, 2.0, 24.0, 10.0]  # half of 16 pixels around (20, 6)
