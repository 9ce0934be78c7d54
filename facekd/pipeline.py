"""From a photograph to faces: detect, align, embed, tell the mask status, judge the quality."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facekd.detection.detector import Detection, Detector
from facekd.errors import ConfigError
from facekd.images import ImageSource, load_image
from facekd.recognition.align import align_face
from facekd.recognition.embedder import Embedder
from facekd.recognition.mask import MaskHead, MaskResult
from facekd.recognition.quality import Quality, face_quality


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face of a photograph, with everything that is known about it.

    Attributes:
        box: (4,) float32, ``x1, y1, x2, y2`` in pixels of the photograph; may reach beyond its edges.
        landmarks: (5, 2) float32: left eye, right eye, nose, left and right mouth corner, as seen in the picture.
        score: the detector's, 0..1, higher is more surely a face.
        crop: the aligned face, RGB uint8 (112, 112, 3).
        embedding: (512,) float32 of unit length.
        mask: what is on the face.
        quality: how fit the face is to be recognised.
    """

    box: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]
    score: float
    crop: npt.NDArray[np.uint8]
    embedding: npt.NDArray[np.float32]
    mask: MaskResult
    quality: Quality

    def to_dict(self) -> dict[str, object]:
        """The face as the command line prints it: box, landmarks, score, mask, quality; no embedding, no crop."""
        return {
            "box": [round(float(value), 2) for value in self.box],
            "landmarks": [[round(float(x), 2), round(float(y), 2)] for x, y in self.landmarks],
            "score": round(self.score, 4),
            "mask": self.mask.to_dict(),
            "quality": self.quality.to_dict(),
        }


class FacePipeline:
    """All stages in one object; make one and keep it, since it holds the loaded models.

    Any number of threads may share it, at the same time too: it keeps nothing of a picture.

    Args:
        detector: by default the zoo's.
        embedder: by default the zoo's.
        mask_head: by default the zoo's.
        threads: processor threads of the models that are loaded here; 0 is automatic.

    Raises:
        ConfigError: an argument is no detector, no embedder or no mask head.
        ModelError: a model is missing or damaged.
    """

    def __init__(
        self,
        detector: Detector | None = None,
        embedder: Embedder | None = None,
        mask_head: MaskHead | None = None,
        threads: int = 0,
    ) -> None:
        for given, name, needed in (
            (detector, "detector", "detect_batch"),
            (embedder, "embedder", "embed"),
            (mask_head, "mask_head", "predict"),
        ):
            if given is not None and not hasattr(given, needed):
                raise ConfigError(f"{name} of a pipeline must have a method {needed}, got {given!r}: hand in an object")
        self.detector = detector or Detector(threads=threads)
        self.embedder = embedder or Embedder(threads=threads)
        self.mask_head = mask_head or MaskHead(threads=threads)

    def analyze(self, image: ImageSource) -> list[Face]:
        """Faces of one photograph, by falling score of the detector.

        Args:
            image: what :func:`facekd.images.load_image` takes; an array is RGB uint8 (H, W, 3).

        Raises:
            ImageError: the picture cannot be used.
            ModelError: a model fails.
        """
        return self.analyze_batch([image])[0]

    def analyze_batch(self, images: Sequence[ImageSource]) -> list[list[Face]]:
        """Faces of several photographs; the networks see the faces of all of them together.

        Raises:
            ConfigError: it is one photograph instead of a list of them.
            ImageError: a picture cannot be used.
            ModelError: a model fails.
        """
        single = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike))
        if single or (isinstance(images, np.ndarray) and images.ndim < 4):
            raise ConfigError("analyze_batch takes photographs in a list: for one there is analyze")
        pictures = [load_image(image) for image in images]
        found = [
            (index, detection, crop)
            for index, detections in enumerate(self.detector.detect_batch(pictures))
            for detection, crop in _aligned(pictures[index], detections)
        ]
        faces: list[list[Face]] = [[] for _ in pictures]
        if not found:
            return faces
        crops = np.stack([crop for _, _, crop in found])
        answers = zip(found, self.embedder.embed(crops), self.mask_head.predict(crops), strict=True)
        for (index, detection, crop), embedding, mask in answers:
            quality = face_quality(pictures[index], detection.landmarks, detection.box, crop)
            face = Face(detection.box, detection.landmarks, detection.score, crop, embedding.copy(), mask, quality)
            faces[index].append(face)
        return faces


def _aligned(
    picture: npt.NDArray[np.uint8], detections: Sequence[Detection]
) -> list[tuple[Detection, npt.NDArray[np.uint8]]]:
    aligned = []
    for detection in detections:
        try:
            aligned.append((detection, align_face(picture, detection.landmarks)))
        except ValueError:
            continue  # five points in one spot are no face, whatever the score says
    return aligned
