"""YuNet in ONNX Runtime, with the same session settings as ours: what its network and decoding cost there.

Its ONNX file takes 640x640 only, BGR 0..255, and gives for each stride 8, 16, 32: class and object scores, boxes and
five points by cell (Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector").
"""

from __future__ import annotations

import os
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
        levels = [self._level(outputs, stride) for stride in STRIDES]
        boxes, points, scores = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        chosen = np.flatnonzero(scores >= score_threshold)
        kept = chosen[nms(boxes[chosen], scores[chosen], self.nms_iou)]
        return [Detection(boxes[k], points[k], float(scores[k])) for k in kept]

    def _level(
        self, outputs: dict[str, NDArray[np.float32]], stride: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Boxes (N, 4), points (N, 5, 2) and scores (N,) of one stride."""
        cells = SIDE_PX // stride
        rows, columns = np.divmod(np.arange(cells * cells), cells)
        corner = np.stack([columns, rows], axis=1).astype(np.float32)
        code = outputs[f"bbox_{stride}"][0]
        centre, size = (corner + code[:, :2]) * stride, np.exp(code[:, 2:]) * stride
        points = (corner[:, None] + outputs[f"kps_{stride}"][0].reshape(-1, 5, 2)) * stride
        class_score, object_score = (np.clip(outputs[f"{kind}_{stride}"][0, :, 0], 0, 1) for kind in ("cls", "obj"))
        boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
        return boxes.astype(np.float32), points.astype(np.float32), np.sqrt(class_score * object_score)
