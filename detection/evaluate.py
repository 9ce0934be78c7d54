"""Running a detector over labelled photographs: detection figures, WIDER FACE, landmarks.

The arithmetic is in `facekd.evaluation`; here photographs meet the detector. Unless a long side is asked for, every
photograph is shown at its own size, in one single look (and each face of it in a second one, see `Detector`).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.detection.detector import Detection, Detector
from facekd.detection.labels import LabelledPhotograph, read_labels
from facekd.errors import ConfigError, DataError
from facekd.evaluation.detection import (
    Matches,
    PhotographDetections,
    average_precision_range,
    detection_figures,
    match_detections,
    recall_by_size,
    threshold_at_fppi,
    threshold_at_precision,
)
from facekd.evaluation.landmarks import joined_errors, landmark_errors
from facekd.evaluation.photographs import Photographs, folder_or_archive
from facekd.evaluation.progress import Progress, silently
from facekd.evaluation.wider import read_wider_labels, wider_figures
from facekd.images import ImageSource, load_image

LOWEST_SCORE = 0.02
"""From which score on detections enter a curve, ours and our peers' alike."""


class RawDetector(Protocol):
    """A detector that takes a single look at a photograph: ours, or a peer."""

    def detect_raw(self, image: ImageSource, score_threshold: float) -> Sequence[Detection]:
        """Faces from that score on."""


class AllViews:
    """Our detector as its users run it: with every view of `facekd.detection.tiling`, not in a single look.

    Args:
        detector: asked for all its views.
    """

    def __init__(self, detector: Detector) -> None:
        self.score_threshold = detector.score_threshold
        self.refiner = detector.refiner
        self._detector = detector

    def detect_raw(self, image: ImageSource, score_threshold: float) -> list[Detection]:
        """Faces from that score on."""
        return self._detector.detect_batch([image], score_threshold)[0]


@dataclass(frozen=True, slots=True, eq=False)
class FoundFaces:
    """What was found in one photograph: boxes (N, 4), landmarks (N, 5, 2) and scores (N,), float32."""

    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    scores: NDArray[np.float32]

    @classmethod
    def of(cls, detections: Sequence[Detection], scale: float = 1.0) -> FoundFaces:
        """Gather detections into arrays, coordinates divided by `scale`."""
        boxes = np.array([found.box for found in detections], np.float32).reshape(-1, 4)
        landmarks = np.array([found.landmarks for found in detections], np.float32).reshape(-1, 5, 2)
        scores = np.array([found.score for found in detections], np.float32)
        return cls(boxes / np.float32(scale), landmarks / np.float32(scale), scores)

    def boxes_only(self) -> PhotographDetections:
        """What detection figures need."""
        return PhotographDetections(self.boxes, self.scores)


def look(
    detector: RawDetector,
    photographs: Photographs,
    names: Sequence[str],
    progress: Progress = silently,
    score_threshold: float = LOWEST_SCORE,
    long_side_px: int | None = None,
) -> list[FoundFaces]:
    """Run a detector over photographs.

    Args:
        detector: ours, or a peer.
        photographs: where they lie.
        names: which ones, in which order.
        progress: shows how far it is.
        score_threshold: from which score on detections are kept.
        long_side_px: photographs are shrunk or enlarged to this; None leaves them at their own size.

    Raises:
        DataError: a photograph is missing.
        ImageError: one cannot be decoded.
    """
    found = []
    for name in progress(names, "looking"):
        picture = load_image(photographs.read(name))
        scale = 1.0 if long_side_px is None else long_side_px / max(picture.shape[:2])
        if scale != 1.0:
            size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            picture = np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)
        found.append(FoundFaces.of(detector.detect_raw(picture, score_threshold), scale))
    return found


def evaluate_detection(
    root: str | os.PathLike[str],
    split: str,
    detector: RawDetector,
    progress: Progress = silently,
    score_threshold: float = 0.5,
    long_side_px: int | None = None,
) -> dict[str, Any]:
    """Detection figures of a split: ``SPLIT.txt`` in RetinaFace's form beside ``SPLIT.zip`` or a folder ``SPLIT``.

    Args:
        root: the folder that holds them.
        split: such as "test".
        detector: ours, or a peer.
        progress: shows how far it is.
        score_threshold: where recall by size and false alarms are read; curves use all scores.
        long_side_px: see `look`.

    Returns:
        The keys of `detection_figures`, and ``ap_50_95``, ``score_threshold``, ``at_threshold`` (recall, precision,
        false alarms, and those in photographs without any label), ``threshold_at_precision_0.90``,
        ``threshold_at_fppi_0.1`` and ``by_size``.

    Raises:
        DataError: labels or photographs cannot be read, or there is no face among them.
    """
    labels = read_split(root, split)
    found = look(
        detector,
        folder_or_archive(Path(root), split),
        [photograph.name for photograph in labels],
        progress,
        long_side_px=long_side_px,
    )
    return detection_report(labels, found, score_threshold)


def read_split(root: str | os.PathLike[str], split: str) -> list[LabelledPhotograph]:
    """Labels of ``root/split.txt``.

    Raises:
        DataError: there are none, or no face is labelled.
    """
    labels = read_labels(Path(root) / f"{split}.txt")
    if not any((~photograph.ignore).any() for photograph in labels):
        raise DataError(f"{Path(root) / split}.txt labels no face: there is nothing to find")
    return labels


def detection_report(
    labels: Sequence[LabelledPhotograph], found: Sequence[FoundFaces], score_threshold: float
) -> dict[str, Any]:
    """The figures of `evaluate_detection` from what was found."""
    detections = [faces.boxes_only() for faces in found]
    matches = match_detections(labels, detections)
    return {
        **detection_figures(labels, detections),
        "ap_50_95": average_precision_range(labels, detections),
        "threshold_at_precision_0.90": threshold_at_precision(matches, 0.90),
        "threshold_at_fppi_0.1": threshold_at_fppi(matches, 0.1),
        "score_threshold": score_threshold,
        "at_threshold": _at_threshold(labels, found, matches, score_threshold),
        "by_size": [asdict(size) for size in recall_by_size(labels, matches, score_threshold)],
    }


def _at_threshold(
    labels: Sequence[LabelledPhotograph], found: Sequence[FoundFaces], matches: Matches, threshold: float
) -> dict[str, float | int]:
    accepted = matches.scores >= threshold
    hits = int(matches.hits[accepted].sum())
    empty = [faces for photograph, faces in zip(labels, found, strict=True) if not len(photograph.boxes)]
    return {
        "recall": hits / matches.faces,
        "precision": hits / int(accepted.sum()) if accepted.any() else float("nan"),
        "false_alarms": int(accepted.sum()) - hits,
        "photographs_without_faces": len(empty),
        "false_alarms_without_faces": sum(int((faces.scores >= threshold).sum()) for faces in empty),
    }


def evaluate_wider(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    detector: RawDetector,
    progress: Progress = silently,
) -> dict[str, float | int]:
    """WIDER FACE's official figures: ``{"easy", "medium", "hard", "photographs"}``.

    Args:
        images: the folder ``WIDER_val/images`` with its folders of events, or an archive of it.
        labels: a text with subsets, or the folder of the official ``.mat`` files.
        detector: ours, or a peer; photographs are shown at their own size.
        progress: shows how far it is.
    """
    photographs = read_wider_labels(labels)
    found = look(detector, Photographs(images), [photograph.name for photograph in photographs], progress)
    return wider_figures(photographs, [faces.boxes_only() for faces in found])


def evaluate_landmarks(
    root: str | os.PathLike[str],
    split: str,
    detector: RawDetector,
    source: str | None = None,
    progress: Progress = silently,
    score_threshold: float = LOWEST_SCORE,
    long_side_px: int | None = None,
) -> dict[str, float | int]:
    """Landmark error of the labelled faces that are found (IoU at least 0.5), by the distance of the eye centres.

    Args:
        root, split: as for `evaluate_detection`.
        detector: ours, or a peer.
        source: only photographs of this source in ``photographs.csv``; None takes all.
        progress: shows how far it is.
        score_threshold: from which score on a face counts as found.
        long_side_px: see `look`.

    Returns:
        ``{"nme", "images", "faces", "missed", "over_0.1"}``: mean over the faces found, and the share of them whose
        error is above a tenth.

    Raises:
        ConfigError: no photograph is of this source.
    """
    labels = read_split(root, split)
    if source is not None:
        wanted = photographs_of(root, source)
        labels = [photograph for photograph in labels if photograph.name in wanted]
        if not labels:
            raise ConfigError(f"No photograph of {split} has the source {source!r}; see {Path(root)}/photographs.csv")
    found = look(
        detector,
        folder_or_archive(Path(root), split),
        [photograph.name for photograph in labels],
        progress,
        score_threshold,
        long_side_px,
    )
    errors = joined_errors(
        [
            landmark_errors(
                photograph.boxes[~photograph.ignore],
                photograph.landmarks[~photograph.ignore],
                faces.boxes,
                faces.landmarks,
            )
            for photograph, faces in zip(labels, found, strict=True)
        ]
    )
    return {
        "nme": errors.mean,
        "images": len(labels),
        "faces": len(errors.errors),
        "missed": errors.missed,
        "over_0.1": float((errors.errors > 0.1).mean()) if len(errors.errors) else float("nan"),
    }


def photographs_of(root: str | os.PathLike[str], source: str) -> set[str]:
    """Names of the photographs whose column ``source`` in ``photographs.csv`` says so.

    Raises:
        DataError: the table is missing, or has no such columns.
    """
    path = Path(root) / "photographs.csv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return {row["file"] for row in csv.DictReader(file) if row["source"] == source}
    except (OSError, UnicodeDecodeError, KeyError) as error:
        raise DataError(f"Cannot read the columns file and source of {path}: {error!r}") from error


def nearest_to_centre(detections: Sequence[Detection], size: tuple[int, int]) -> Detection | None:
    """The face whose box lies nearest to the centre of a photograph of (width, height); None if there is none.

    Photographs of verification sets are cut round the person that they are of; others may stand at the edges.
    """
    centre = np.array(size, np.float64) / 2
    return min(
        detections,
        key=lambda found: float(np.hypot(*((found.box[:2] + found.box[2:]) / 2 - centre))),
        default=None,
    )
