"""Detectors for the comparison: one task a seed, one judge for ours and for YuNet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from facekd.bench.yunet_onnx import YuNetOnnx
from facekd.detection.data.photographs import require_data
from facekd.detection.detector import Detector
from facekd.detection.evaluate import RawDetector, look
from facekd.detection.labels import LabelledPhotograph, read_labels
from facekd.detection.train import (
    ARCHITECTURES,
    DetectorData,
    DetectorTask,
    Recipe,
    ValidationSettings,
    evenly,
)
from facekd.distill.teachers import Teacher
from facekd.engine.digests import digest_of
from facekd.engine.settings import TrainingSettings, parse_recipe
from facekd.engine.task import Task
from facekd.errors import ConfigError
from facekd.evaluation.detection import detection_figures
from facekd.evaluation.photographs import Photographs, folder_or_archive
from facekd.runtime import open_session
from facekd.zoo import ModelRecord, Preprocessing


class DetectorStage:
    """The detector; see `facekd.distill.stages.Stage`. The recipe's own terms are switched off for the comparison's."""

    figures: tuple[str, ...] = ("ap", "recall_fppi_0.1", "recall_p90")

    def __init__(self, table: dict[str, Any], source: Path, say: Callable[[str], None] = lambda _line: None) -> None:
        recipe = parse_recipe(Recipe, table, source)
        if recipe.data.test is None:
            raise ConfigError(f"{source} has no [data.test] with photographs and labels: there is nothing to judge by")
        self._recipe = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"terms": ()})})
        self._test: ValidationSettings = recipe.data.test
        require_data(self._test.photographs, recipe.data.folders)  # before hours of training, not after
        self._labels: Sequence[LabelledPhotograph] = evenly(
            read_labels(require_data(self._test.labels, recipe.data.folders)), self._test.limit
        )
        self._data = DetectorData.load(recipe.data, say)
        self.architectures: Mapping[str, Callable[..., nn.Module]] = ARCHITECTURES
        self.example = np.zeros((1, 3, 640, 640), np.float32)  # YuNet's file takes nothing else

    def settings(self, seed: int) -> TrainingSettings:
        """See `Stage`."""
        return self._recipe.training.model_copy(update={"seed": seed})

    def data_digest(self) -> str:
        """See `facekd.distill.stages.Stage`."""
        return digest_of(self._arrays())

    def _arrays(self) -> Iterator[NDArray[Any]]:
        for photograph in (one for collection in self._data.collections for one in collection):
            planes = photograph.levels[0]  # the others are made of it
            yield from (planes.luma, planes.chroma, photograph.boxes, photograph.landmarks, photograph.ignore)
            yield np.array(photograph.landmark_weight)
        for pixels, label in self._data.validation:
            yield from (pixels, label.boxes, label.landmarks, label.ignore)
        photographs = self._test_photographs()
        for label in self._labels:
            yield np.frombuffer(photographs.read(label.name), np.uint8)
            yield from (label.boxes, label.landmarks, label.ignore)

    def task(self, seed: int, student: nn.Module | None) -> Task:
        """See `Stage`."""
        if student is not None:
            raise ConfigError("name the detector's network in its recipe (network.…), not in the comparison")
        return DetectorTask(self._recipe.model_copy(update={"training": self.settings(seed)}), self._data)

    def teachers(self) -> dict[str, Teacher]:
        """See `Stage`."""
        return {}

    def centres(self) -> dict[str, Tensor]:
        """See `Stage`."""
        return {}

    def judge(self, weights: Path) -> dict[str, float]:
        """See `Stage`. Photographs at their own size, in one look; those of YuNet may have 640x640 pixels at most."""
        found = look(
            open_detector(weights, self._recipe.preprocessing, self._test.nms_iou),
            self._test_photographs(),
            [label.name for label in self._labels],
            score_threshold=self._test.score_threshold,
        )
        figures = detection_figures(self._labels, [faces.boxes_only() for faces in found])
        return {
            "ap": float(figures["ap"]),
            "recall_fppi_0.1": float(figures["recall_at_fppi_0.1"]),
            "recall_p90": float(figures["recall_at_precision_0.90"]),
        }

    def judge_stored(self) -> dict[str, dict[str, float]]:
        """See `Stage`."""
        return {}

    def _test_photographs(self) -> Photographs:
        photographs = require_data(self._test.photographs, self._recipe.data.folders)
        return folder_or_archive(photographs.parent, photographs.stem)


def open_detector(weights: Path, preprocessing: Preprocessing, nms_iou: float) -> RawDetector:
    """An exported detector of ours, or YuNet's file, told apart by the names of the outputs.

    Args:
        weights: the file.
        preprocessing: of ours.
        nms_iou: of ours; YuNet's stays its users'.
    """
    content = weights.read_bytes()
    if any(name.startswith("cls_") for name in open_session(content, 1).outputs):
        return YuNetOnnx(weights)
    record = ModelRecord(
        name=weights.stem,
        task="detector",
        file=weights.name,
        sha256=hashlib.sha256(content).hexdigest(),
        preprocessing=preprocessing,
        folder=weights.resolve().parent,
    )
    return Detector(record, nms_iou=nms_iou, refiner=None)
