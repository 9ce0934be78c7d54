"""YuNet's answers on our anchors, from a graph of YuNet's form whose faces are known: bright cells."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch

from facekd.detection.anchors import anchors
from facekd.detection.codec import decode_boxes, decode_landmarks
from facekd.distill.distiller import Distiller
from facekd.distill.opening import open_teacher
from facekd.distill.settings import TeacherFile, Term
from facekd.distill.yunet import TAPS, YuNetTeacher
from facekd.errors import ConfigError, ModelError

POINTS = np.array([[0.1, 0.2], [0.9, 0.2], [0.5, 0.5], [0.2, 0.8], [0.8, 0.8]])  # of a cell, as the fixture writes them


def pictures(size: int, cells: list[tuple[int, int, int, float]]) -> torch.Tensor:
    """Black pictures as our detectors see them, with bright blue cells: (photograph, row, column) of stride 16."""
    pixels = torch.zeros(1 + max(cell[0] for cell in cells), 3, size, size)
    for photograph, row, column, value in cells:
        pixels[photograph, 2, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = value
    return (pixels - 127.5) / 128


def test_a_face_goes_to_the_anchors_that_a_truth_would_go_to(yunet_bytes: bytes) -> None:
    # 224 pixels and two photographs, where the file says 640 and one; one face in the first, two in the second.
    given = pictures(224, [(0, 5, 7, 255.0), (1, 2, 2, 255.0), (1, 9, 10, 255.0)])
    scores, boxes, landmarks = YuNetTeacher(yunet_bytes).answer(given, TAPS).values()
    squares = anchors(224, 224)
    assert scores.shape == (2, len(squares))
    assert boxes.shape == (2, len(squares), 4)
    assert landmarks.shape == (2, len(squares), 10)
    # The graph's box has its centre at the middle of the cell and sides of four cells: 64 pixels, one of our anchors.
    for photograph, row, column in ((0, 5, 7), (1, 2, 2), (1, 9, 10)):
        centre = np.array([16 * column + 8, 16 * row + 8], np.float32)
        own = np.flatnonzero((squares == [*centre, 64, 64]).all(axis=1))
        assert len(own) == 1
        assert scores[photograph, own].item() == pytest.approx(0.9, abs=1e-4)
        found = decode_boxes(boxes[photograph, own].numpy(), squares[own])[0]
        np.testing.assert_allclose(found, [*(centre - 32), *(centre + 32)], atol=1e-3)
        points = decode_landmarks(landmarks[photograph, own].numpy(), squares[own])[0]
        np.testing.assert_allclose(points, (np.array([column, row]) + POINTS) * 16, atol=1e-3)
    faces = scores > 0.5
    overlapping = [  # by hand: intersection over union with the squares of the first photograph
        index
        for index, (x, y, side, _) in enumerate(squares)
        if (
            shared := max(0, min(x + side / 2, 152) - max(x - side / 2, 88))
            * max(0, min(y + side / 2, 120) - max(y - side / 2, 56))
        )
        / (side**2 + 64**2 - shared)
        >= 0.35
    ]
    assert faces[0].nonzero()[:, 0].tolist() == overlapping
    assert (scores[~faces] == 0.01).all()
    assert not boxes[~faces].any()


def test_a_doubtful_face_is_neither_foreground_nor_background_and_a_worse_double_is_dropped(yunet_bytes: bytes) -> None:
    dim = pictures(224, [(0, 5, 7, 130.0)])  # half as bright: the score lies between
    scores = YuNetTeacher(yunet_bytes).answer(dim, TAPS[:1])[TAPS[0]]
    assert 0.05 < scores.max() < 0.5
    neighbours = pictures(224, [(0, 5, 7, 255.0), (0, 5, 8, 250.0)])  # boxes that overlap by 60 %
    found = YuNetTeacher(yunet_bytes).answer(neighbours, TAPS)
    values = found[TAPS[0]][found[TAPS[0]] > 0.05]
    assert values.unique().numel() == 1
    assert YuNetTeacher(yunet_bytes, nms_iou=0.9).answer(neighbours, TAPS[:1])[TAPS[0]].unique().numel() == 3


def test_a_recipe_opens_it_and_the_student_follows(yunet_bytes: bytes, tmp_path) -> None:
    (tmp_path / "yunet.onnx").write_bytes(yunet_bytes)
    settings = TeacherFile.model_validate({"file": str(tmp_path / "yunet.onnx"), "layout": "yunet", "threads": 1})
    teacher = open_teacher("yunet", settings, {}, TAPS)
    given = pictures(64, [(0, 1, 1, 255.0), (1, 2, 2, 255.0)])

    class Student(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answers = torch.nn.Parameter(torch.zeros(15, len(anchors(64, 64))))

        def forward(self, seen: torch.Tensor) -> tuple[torch.Tensor, ...]:
            every = self.answers.T.expand(len(seen), -1, -1)
            return every[..., 0], every[..., 1:5], every[..., 5:]

    student = Student()
    term = Term(method="detection", student=("output:0", "output:1", "output:2"), teacher=TAPS)
    distiller = Distiller(student, {"yunet": teacher}, [term], given)
    optimizer = torch.optim.Adam(student.parameters(), 0.3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = distiller(given).terms["distill/detection"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_what_is_not_yunet_or_cannot_be_asked_is_refused(yunet_bytes: bytes, tmp_path) -> None:
    teacher = YuNetTeacher(yunet_bytes)
    with pytest.raises(ConfigError, match="not at 'output:faces'"):
        teacher.check(["output:faces"])
    with pytest.raises(ConfigError, match="square crops"):
        teacher.answer(torch.zeros(1, 3, 64, 96), TAPS)
    with pytest.raises(ConfigError, match="multiple of 32"):
        teacher.answer(torch.zeros(1, 3, 40, 40), TAPS)
    with pytest.raises(ModelError, match="no ONNX model"):
        YuNetTeacher(b"no graph")
    with pytest.raises(ModelError, match="cannot read"):
        YuNetTeacher(tmp_path / "none.onnx")
    other = onnx.load_from_string(yunet_bytes)
    del other.graph.output[1:]
    other.graph.output[0].name = "scores"
    with pytest.raises(ModelError, match="is not YuNet: its outputs are scores"):
        YuNetTeacher(other.SerializeToString())
    with pytest.raises(ValueError, match="layout 'yunet' takes no architecture, and mean and scale as options"):
        TeacherFile.model_validate({"file": "y.onnx", "layout": "yunet", "scale": 2.0})
    assert YuNetTeacher(yunet_bytes, scale=1.0, mean=0.0).digest != teacher.digest
    assert math.isfinite(float(teacher.answer(torch.zeros(1, 3, 32, 32), TAPS)[TAPS[1]].sum()))
