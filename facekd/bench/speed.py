"""Stage by stage: how long one photograph of 640x480 with one face takes.

The photograph is scikit-image's astronaut (E. Collins, NASA), cut and enlarged, as JPEG: a face 115 px wide. All stages
run in turns in one process; peers get the same photograph and the same crop.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from facekd.bench.peers import SFace, YuNet, peer_file
from facekd.bench.timing import Timing, measure
from facekd.evaluation.progress import Progress, silently
from facekd.images import load_image
from facekd.pipeline import FacePipeline
from facekd.recognition.align import align_face
from facekd.recognition.quality import face_quality

WIDTH, HEIGHT = 640, 480
# Where the face of `example_photograph` is: the stages behind the detector are timed alike whatever it finds.
BOX = np.array([223, 78, 338, 218], np.float32)
LANDMARKS = np.array([[251, 131], [306, 131], [276, 159], [255, 182], [303, 181]], np.float32)

STAGES = ("decode", "detect", "align", "embed", "mask", "quality", "whole")


def example_photograph() -> NDArray[np.uint8]:
    """A photograph of 640x480 pixels with one face: RGB uint8."""
    picture = skimage.data.astronaut()[:384]
    return np.asarray(cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)


def as_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """The bytes of a JPEG file of quality 90."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """Times by stage, and how many faces the pipeline found in the photograph."""

    times: dict[str, Timing]
    faces: int


def bench_speed(
    pipeline: FacePipeline,
    peers: tuple[str, ...] = (),
    peer_models: str | os.PathLike[str] | None = None,
    rounds: int = 50,
    progress: Progress = silently,
) -> SpeedReport:
    """Time every stage of the pipeline, and peers beside it.

    Args:
        pipeline: with the threads that are to be measured.
        peers: "yunet" adds ``detect by yunet``, "sface" adds ``embed by sface``.
        peer_models: the folder of their ONNX files.
        rounds: medians are over so many.
        progress: shows how far it is.

    Raises:
        ConfigError: a peer is unknown or its file is missing.
    """
    picture = example_photograph()
    encoded = as_jpeg(picture)
    decoded = load_image(encoded)
    crop = align_face(decoded, LANDMARKS)
    crops = crop[None]
    stages: dict[str, Callable[[], object]] = {
        "decode": lambda: load_image(encoded),
        "detect": lambda: pipeline.detector.detect(decoded),
        "align": lambda: align_face(decoded, LANDMARKS),
        "embed": lambda: pipeline.embedder.embed(crops),
        "mask": lambda: pipeline.mask_head.predict(crops),
        "quality": lambda: face_quality(decoded, LANDMARKS, BOX, crop),
        "whole": lambda: pipeline.analyze(encoded),
    }
    for peer in peers:
        file = peer_file(peer, peer_models)
        if peer == YuNet.name:
            stages["detect by yunet"] = partial(YuNet(file).detect, decoded)
        elif peer == SFace.name:
            stages["embed by sface"] = partial(SFace(file).embed, crops)
    times = measure(stages, rounds, progress=progress)
    return SpeedReport(times, len(pipeline.analyze(encoded)))
