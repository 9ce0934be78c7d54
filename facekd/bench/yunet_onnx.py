"""YuNet in ONNX Runtime, with the same session settings as ours: what its network and decoding cost there.

Its ONNX file takes 640x640 only, BGR 0..255, and gives for each stride 8, 16, 32: class and object scores, boxes and
five points by cell (Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector").
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.detection.detector import Detection
from facekd.detection.nms import nms
from facekd.errors import ConfigError
from facekd.images import ImageSource, load_image
from facekd.runtime import open_session

SIDE_PX = 640
STRIDES = (8, 16, 32)

Floats = NDArray[np.float32]


class YuNetOnnx:
    """YuNet by ONNX Runtime, photographs of at most 640x640 (padded with black).

    Args:
        path: its ONNX file.
        threads: processor threads; 0 is automatic.
        nms_iou: its users' value.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 0, nms_iou: float = 0.3) -> None:
        self._session = open_session(Path(path).read_bytes(), threads)
        self.nms_iou = nms_iou

    def detect_raw(self, image: ImageSource, score_threshold: float) -> list[Detection]:
        """Faces from that score on, surest first.

        Raises:
            ConfigError: the photograph is larger than 640x640.
        """
        picture = load_image(image)
        height, width = picture.shape[:2]
        if max(height, width) > SIDE_PX:
            raise ConfigError(f"YuNet's ONNX file takes {SIDE_PX}x{SIDE_PX} only, got {width}x{height}")
        planes = np.zeros((1, 3, SIDE_PX, SIDE_PX), np.float32)
        planes[0, :, :height, :width] = picture[..., ::-1].transpose(2, 0, 1)
        outputs = dict(zip(self._session.outputs, self._session.run({self._session.inputs[0]: planes}), strict=True))
        boxes, points, scores = yunet_faces(outputs, 0, SIDE_PX, score_threshold)
        return [Detection(boxes[k], points[k], float(scores[k])) for k in nms(boxes, scores, self.nms_iou)]


def yunet_faces(
    outputs: Mapping[str, Floats], number: int, size: int, least_score: float
) -> tuple[Floats, Floats, Floats]:
    """YuNet's boxes of one photograph before suppression.

    A cell's box has its centre at (cell + code) * stride and the sides exp(code) * stride; its points are (cell + code)
    * stride; its score is the geometric mean of the scores for "a face" and "an object".

    Args:
        outputs: of its graph, by name, for N square photographs.
        number: which of these.
        size: their side in pixels.
        least_score: boxes below it are left out.

    Returns:
        Boxes x1, y1, x2, y2 (K, 4), points (K, 5, 2), both in pixels, and scores (K,) in 0..1.
    """
    found: list[tuple[Floats, Floats, Floats]] = []
    for stride in STRIDES:
        likely, present = (np.clip(outputs[f"{kind}_{stride}"][number, :, 0], 0, 1) for kind in ("cls", "obj"))
        scores = np.sqrt(likely * present)
        cells = np.flatnonzero(scores >= least_score)
        corner = np.stack([cells % (size // stride), cells // (size // stride)], axis=1).astype(np.float32)
        code = outputs[f"bbox_{stride}"][number, cells]
        centre, half = (corner + code[:, :2]) * stride, np.exp(code[:, 2:]) * (stride / 2)
        points = (corner[:, None] + outputs[f"kps_{stride}"][number, cells].reshape(-1, 5, 2)) * stride
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        found.append((boxes.astype(np.float32), points.astype(np.float32), scores[cells]))
    boxes, points, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return boxes, points, scores
