"""Our detector and a peer on the same photographs in the same run: figures and times side by side."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.bench.peers import YuNet, peer_file
from facekd.bench.speed import example_photograph
from facekd.bench.timing import Timing, measure
from facekd.bench.yunet_onnx import YuNetOnnx
from facekd.detection.detector import Detector
from facekd.detection.evaluate import RawDetector, detection_report, evaluate_wider, look, read_split
from facekd.errors import ConfigError
from facekd.evaluation.photographs import folder_or_archive
from facekd.evaluation.progress import Progress, silently

SIDE_PX = 640


def square_photograph() -> NDArray[np.uint8]:
    """The example photograph on a black square of 640x640: RGB uint8."""
    square = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    picture = example_photograph()
    square[: picture.shape[0], : picture.shape[1]] = picture
    return square


def time_detectors(
    detector: Detector,
    peer: str | None = None,
    peer_models: str | os.PathLike[str] | None = None,
    rounds: int = 30,
    progress: Progress = silently,
) -> dict[str, Timing]:
    """Times at 640x640, decoding of boxes and suppression included on both sides, in turns.

    Returns:
        ``ours`` (one look at the photograph, as evaluated, and the second look at its faces), ``ours, first look``
        (without the second, if there is one), ``ours, all views`` (as `Detector.detect` works), and with the peer
        ``yunet`` (OpenCV, as its users run it) and ``yunet in ONNX Runtime`` (the same session settings as ours).

    Raises:
        ConfigError: the peer is no detector, or its file is missing.
    """
    picture = square_photograph()
    threshold = detector.score_threshold
    stages: dict[str, Callable[[], object]] = {"ours": lambda: detector.detect_raw(picture, threshold)}
    if detector.refiner is not None:
        first = Detector(
            detector.record, threshold, detector.nms_iou, detector.min_face_px, threads=detector.threads, refiner=None
        )
        stages["ours, first look"] = lambda: first.detect_raw(picture, threshold)
    stages["ours, all views"] = lambda: detector.detect(picture)
    if peer is not None:
        yunet = open_yunet(peer, peer_models)
        onnx = YuNetOnnx(yunet.path)
        stages["yunet"] = lambda: yunet.detect(picture)
        stages["yunet in ONNX Runtime"] = lambda: onnx.detect_raw(picture, yunet.score_threshold)
    return measure(stages, rounds, progress=progress)


def open_yunet(peer: str, peer_models: str | os.PathLike[str] | None) -> YuNet:
    """YuNet, if that is the peer.

    Raises:
        ConfigError: it is another one, or its file is missing.
    """
    path = peer_file(peer, peer_models)
    if peer != YuNet.name:
        raise ConfigError(f"{peer!r} is no detector; compare with --peer {YuNet.name}")
    return YuNet(path)


def compare_detectors(
    root: str | os.PathLike[str],
    split: str,
    detectors: dict[str, tuple[RawDetector, float, int | None]],
    progress: Progress = silently,
) -> dict[str, Any]:
    """Detection figures of several detectors on one split.

    Args:
        root, split: as for `facekd.detection.evaluate.evaluate_detection`.
        detectors: by name: the detector, its threshold for the figures at one point, and the long side to which
            photographs are resized (None: their own size).
        progress: shows how far it is.
    """
    labels = read_split(root, split)
    photographs = folder_or_archive(Path(root), split)
    names = [photograph.name for photograph in labels]
    figures = {}
    for name, (detector, threshold, long_side_px) in detectors.items():
        found = look(detector, photographs, names, progress, long_side_px=long_side_px)
        figures[name] = {**detection_report(labels, found, threshold), "long_side_px": long_side_px}
    return figures


def compare_on_wider(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    detectors: dict[str, RawDetector],
    progress: Progress = silently,
) -> dict[str, Any]:
    """WIDER FACE's figures of several detectors on the same photographs."""
    return {name: evaluate_wider(images, labels, detector, progress) for name, detector in detectors.items()}
