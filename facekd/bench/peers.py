"""Other people's models, run the way their users run them, so that figures stand side by side.

Their weights are not ours to ship: who compares brings a folder with the ONNX files of the OpenCV Zoo
(https://github.com/opencv/opencv_zoo): YuNet (MIT licence) and SFace (Apache-2.0).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.detection.detector import Detection
from facekd.errors import ConfigError, ModelError
from facekd.images import ImageSource, load_image
from facekd.runtime import Session, open_session

PEER_FILES = {"yunet": "face_detection_yunet_2023mar.onnx", "sface": "face_recognition_sface_2021dec.onnx"}


def peer_file(peer: str, folder: str | os.PathLike[str] | None) -> Path:
    """The ONNX file of a peer.

    Raises:
        ConfigError: there is no such peer, no folder was named, or the file is not in it.
    """
    if peer not in PEER_FILES:
        raise ConfigError(f"There is no peer {peer!r}; choose one of {', '.join(PEER_FILES)}")
    if folder is None:
        raise ConfigError(f"--peer {peer} needs --peer-models DIR, the folder that holds {PEER_FILES[peer]}")
    path = Path(folder) / PEER_FILES[peer]
    if not path.is_file():
        raise ConfigError(f"{path} is missing; put {PEER_FILES[peer]} of the OpenCV Zoo there")
    return path


class YuNet:
    """YuNet by OpenCV's ``FaceDetectorYN``, as its users run it.

    Args:
        path: its ONNX file.
        score_threshold: detections below it are not reported by `detect`.
        nms_iou: its users' value is 0.3.
    """

    name = "yunet"

    def __init__(self, path: str | os.PathLike[str], score_threshold: float = 0.6, nms_iou: float = 0.3) -> None:
        self.path = Path(path)
        self.score_threshold = score_threshold
        try:
            self._detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), score_threshold, nms_iou, 5000)
        except cv2.error as error:
            raise ModelError(f"OpenCV cannot load {path}: {error}") from error

    def detect(self, image: ImageSource) -> list[Detection]:
        """Faces at the photograph's own size, surest first."""
        return self.detect_raw(image, self.score_threshold)

    def detect_raw(self, image: ImageSource, score_threshold: float) -> list[Detection]:
        """The same from another score on."""
        picture = load_image(image)
        self._detector.setInputSize((picture.shape[1], picture.shape[0]))
        self._detector.setScoreThreshold(score_threshold)
        rows = self._detector.detect(np.ascontiguousarray(picture[..., ::-1]))[1]
        if rows is None:
            return []
        table = np.asarray(rows, np.float32)[np.argsort(-rows[:, 14], kind="stable")]
        corners = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
        # It names right and left as the person has them: in the picture the order is ours.
        points = table[:, 4:14].reshape(-1, 5, 2)
        return [Detection(corners[k], points[k], float(table[k, 14])) for k in range(len(table))]


class SFace:
    """SFace in ONNX Runtime: aligned crops, RGB 0..255, to 128 numbers.

    Args:
        path: its ONNX file.
        threads: processor threads; 0 is automatic.
    """

    name = "sface"

    def __init__(self, path: str | os.PathLike[str], threads: int = 0) -> None:
        self.path = Path(path)
        self._session: Session = open_session(self.path.read_bytes(), threads)

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings (N, 128) of unit length for RGB crops (N, 112, 112, 3); its graph takes one crop at a time."""
        rows = [self._run(crop.transpose(2, 0, 1)[None].astype(np.float32)) for crop in crops]
        raw = np.concatenate([np.empty((0, 128), np.float32), *rows])
        return raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)

    def _run(self, planes: NDArray[Any]) -> NDArray[np.float32]:
        return self._session.run({self._session.inputs[0]: planes})[0]
