"""YuNet as a teacher of the detector: what it finds, put on our anchors as a truth would be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekd.bench.yunet_onnx import STRIDES, yunet_faces
from facekd.detection.data.targets import make_targets
from facekd.detection.nms import nms
from facekd.distill.teachers import Answers
from facekd.errors import ConfigError, ModelError
from facekd.runtime import open_session

KINDS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
TAPS = ("output:scores", "output:boxes", "output:landmarks")

Floats = NDArray[np.float32]


class YuNetTeacher:
    """YuNet (Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector"; OpenCV Zoo, MIT) by ONNX Runtime.

    It has one free-floating box a cell, we have two anchored ones, and which of its strides answers for a face is not
    what our anchors say. So its answers are made what its users see, boxes after suppression, and these are matched to
    our anchors exactly as true faces are (`facekd.detection.data.targets`): an anchor that matches has the box, the
    landmarks and the score of its face, all others a score below `least_score`. With the method `detection`, faces
    that YuNet is sure of become foreground, those that it doubts teach nothing, and the rest is background.

    The file takes 640x640 and one photograph; its graph is opened to any multiple of 32 and any number.

    Args:
        content: path of the ONNX file (`face_detection_yunet_2023mar.onnx`), or its bytes.
        mean, scale: what turns the student's pictures into pixels of 0..255, (x - mean) * scale; by default for
            facekd's detector, whose pictures are (pixels - 127.5) / 128.
        least_score: boxes below it are not looked at; also twice the score of an anchor without a face.
        nms_iou: as YuNet's users have it.
        threads: of ONNX Runtime; 0 is its own choice.

    Raises:
        ModelError: the file is missing, no ONNX model, or not YuNet.
    """

    def __init__(
        self,
        content: Path | bytes,
        mean: float = -127.5 / 128,
        scale: float = 128.0,
        least_score: float = 0.02,
        nms_iou: float = 0.3,
        threads: int = 0,
    ) -> None:
        try:
            original = content if isinstance(content, bytes) else Path(content).read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read the teacher's file: {error}") from error
        self._session = open_session(_any_size(original), threads)
        self._mean, self._scale = mean, scale
        self._least_score, self._nms_iou = least_score, nms_iou
        self.digest = hashlib.sha256(original + f"|{mean}|{scale}|{least_score}|{nms_iou}".encode()).hexdigest()

    def check(self, taps: Sequence[str]) -> None:
        """See `facekd.distill.teachers.Teacher`."""
        for tap in taps:
            if tap not in TAPS:
                raise ConfigError(f"YuNet answers at {', '.join(TAPS)}, not at {tap!r}")

    @torch.no_grad()
    def answer(self, pictures: Tensor, taps: Sequence[str]) -> Answers:
        """See `facekd.distill.teachers.Teacher`: scores (N, A) in 0..1, box codes (N, A, 4), landmark codes
        (N, A, 10), as our exported detectors give them.

        Raises:
            ConfigError: an unknown tap, or pictures that are not square with sides divisible by 32.
        """
        self.check(taps)
        height, width = pictures.shape[2:]
        if height != width or height % STRIDES[-1]:
            raise ConfigError(f"YuNet teaches on square crops of a multiple of 32 pixels, got {height} x {width}")
        pixels = ((pictures.float() - self._mean) * self._scale).clamp(0, 255).flip(1)  # RGB to its BGR
        given = {self._session.inputs[0]: pixels.contiguous().cpu().numpy()}
        outputs = dict(zip(self._session.outputs, self._session.run(given), strict=True))
        found = [self._on_anchors(outputs, number, height) for number in range(len(pictures))]
        parts = dict(zip(TAPS, (np.stack(part) for part in zip(*found, strict=True)), strict=True))
        return {tap: torch.from_numpy(parts[tap]).to(pictures.device) for tap in taps}

    def _on_anchors(self, outputs: Mapping[str, Floats], number: int, size: int) -> tuple[Floats, Floats, Floats]:
        """One photograph's scores (A,), box codes (A, 4) and landmark codes (A, 10)."""
        boxes, points, scores = yunet_faces(outputs, number, size, self._least_score)
        kept = nms(boxes, scores, self._nms_iou)
        # A face's score travels to its anchors as the weight of its landmarks does.
        targets = make_targets(size, boxes[kept], points[kept], np.zeros(len(kept), bool), scores[kept])
        count, places = len(targets.labels), targets.positives
        on_anchors = np.full(count, self._least_score / 2, np.float32)
        box_codes, landmark_codes = np.zeros((count, 4), np.float32), np.zeros((count, 10), np.float32)
        on_anchors[places] = targets.landmark_weights
        box_codes[places], landmark_codes[places] = targets.boxes, targets.landmarks
        return on_anchors, box_codes, landmark_codes


def _any_size(content: bytes) -> bytes:
    """The same graph for any number of photographs of any size: fixed sides and the batch of one become open."""
    import onnx
    from onnx import numpy_helper

    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # the protobuf parser raises types of its own
        raise ModelError(f"the teacher is no ONNX model: {error}") from error
    graph = model.graph
    names = {f"{kind}_{stride}" for kind in KINDS for stride in STRIDES}
    if {item.name for item in graph.output} != names:
        raise ModelError(
            f"the teacher is not YuNet: its outputs are {', '.join(item.name for item in graph.output)}, "
            f"wanted {', '.join(sorted(names))} (face_detection_yunet_2023mar.onnx)"
        )
    del graph.value_info[:]
    for item in (graph.input[0], *graph.output):
        for place, side in enumerate(item.type.tensor_type.shape.dim):
            if place != (1 if item is graph.input[0] else 2):  # channels, and numbers a cell, stay
                side.ClearField("dim_value")
                side.dim_param = f"{item.name}_{place}"
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for item in graph.initializer:
        if item.name in shapes:
            sides = numpy_helper.to_array(item).copy()
            sides[0] = 0  # of a Reshape: as in its input
            item.CopyFrom(numpy_helper.from_array(sides, item.name))
    return bytes(model.SerializeToString())
