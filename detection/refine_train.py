"""The refiner as a task of the training engine: it learns from patches round faces and round a detector's mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn

from facekd.detection.data.changes import ChangeSettings
from facekd.detection.data.patches import Patches, SquareSettings, cut_patches, draw_square
from facekd.detection.data.photographs import LabelledSource, read_source
from facekd.detection.detector import Detector
from facekd.detection.network.refiner import ExportedRefiner, RefinerNetwork, RefinerSettings
from facekd.detection.refiner import EYES_PX, OUTPUTS, SIDE_PX, TEMPLATE
from facekd.engine.digests import digest_of
from facekd.engine.export import export_onnx, load_onnx_weights
from facekd.engine.settings import Section, UncompiledTraining, WeightsFile
from facekd.engine.task import Task
from facekd.errors import DataError
from facekd.zoo import Preprocessing

SQUARE = Preprocessing(
    mean=(127.5, 127.5, 127.5),
    scale=(1 / 127.5, 1 / 127.5, 1 / 127.5),
    width=SIDE_PX,
    height=SIDE_PX,
    template="face-64",
)


class StudentSettings(RefinerSettings):
    """The network, and where its weights start.

    Attributes:
        init: an exported refiner of the same shape, or the name of a model of the zoo; without it the network starts
            from noise.
    """

    init: WeightsFile | None = None


class DataSettings(Section):
    """What is trained on and judged by.

    Attributes:
        folders: where the paths of sources and validation are looked for, in order; the working folder if none.
        sources: collections to train on.
        validation: judged by.
        detector: whose mistakes are corrected: a model of the zoo, or its file.
        least_score: its detections from this score on become patches; it takes one look at each photograph, with a long
            side of at most 640 px.
        most: of one photograph, at most so many of its detections, the surest first.
        batch: squares in a batch.
        faces: share of these that show a face.
        squares: how they are drawn from the patches.
        changes: what is done to their pixels.
    """

    folders: tuple[Path, ...] = ()
    sources: tuple[LabelledSource, ...] = Field(min_length=1)
    validation: LabelledSource
    detector: str = "detector"
    least_score: float = Field(default=0.05, ge=0, le=1)
    most: int = Field(default=30, gt=0)
    batch: int = Field(default=96, ge=2)
    faces: float = Field(default=0.6, gt=0, lt=1)
    squares: SquareSettings = SquareSettings()
    changes: ChangeSettings = ChangeSettings(mask=0.12, cover=0.1)


class LossSettings(Section):
    """Weights of the terms.

    Attributes:
        landmarks, boxes, score: weights.
        beta: error, in eye distances, below which smooth L1 is quadratic.
    """

    landmarks: float = Field(default=10.0, ge=0)
    boxes: float = Field(default=2.0, ge=0)
    score: float = Field(default=1.0, ge=0)
    beta: float = Field(default=0.05, gt=0)


class Recipe(Section):
    """A whole recipe for a refiner.

    Attributes:
        kind: says that this recipe is for a refiner.
        data, network, loss, training: see there.
        preprocessing: how pixels become the network's input.
    """

    kind: Literal["refiner"]
    data: DataSettings
    network: StudentSettings = StudentSettings()
    loss: LossSettings = LossSettings()
    training: UncompiledTraining
    preprocessing: Preprocessing = SQUARE


class RefinerBatch(NamedTuple):
    """A batch of N squares.

    Attributes:
        squares: (N, 3, 64, 64) float32, normalised.
        faces: (N,) float32: 1 for a face, 0 for none.
        points, boxes: (N, 10) and (N, 4) float32 codes, 0 where unknown.
        points_known, boxes_known: (N,) float32: 1 where they are known, else 0.
    """

    squares: Tensor
    faces: Tensor
    points: Tensor
    boxes: Tensor
    points_known: Tensor
    boxes_known: Tensor


class RefinerTask:
    """See `facekd.engine.task.Task`.

    Args:
        recipe: what to train.
        train: patches to learn from.
        val: patches to be judged by; those that a detector laid are looked at.
    """

    module: nn.Module
    student: nn.Module

    def __init__(self, recipe: Recipe, train: Patches, val: Patches) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.training.seed)
        network = RefinerNetwork(recipe.network)
        if recipe.network.init is not None:
            load_onnx_weights(ExportedRefiner(network), recipe.network.init)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.student = self.module = network
        self._train = train
        faces, others = np.flatnonzero(train.faces), np.flatnonzero(~train.faces)
        if not len(faces):
            raise DataError("no labelled face could be cut from the training photographs: nothing can be learnt")
        shares = np.where(np.isfinite(train.points[faces, 0, 0]), train.weights[faces], 1.0)
        self._faces, self._face_shares, self._others = faces, shares / shares.sum(), others
        self._val, self._val_pixels = judged_squares(val)

    def batch(self, step: int) -> RefinerBatch:
        """The batch of a step: faces by their weights, and what a detector took for faces."""
        data = self.recipe.data
        rng = np.random.default_rng((self.recipe.training.seed, step))
        count = round(data.batch * data.faces) if len(self._others) else data.batch
        rows = rng.choice(self._faces, count, p=self._face_shares)
        if count < data.batch:
            rows = np.concatenate([rows, rng.choice(self._others, data.batch - count)])
        drawn = [draw_square(self._train, int(row), data.squares, data.changes, rng) for row in rows]
        pixels, points, boxes = (np.stack(parts) for parts in zip(*drawn, strict=True))
        return make_batch(self.recipe.preprocessing.apply(pixels), self._train.faces[rows], points, boxes)

    def losses(self, batch: RefinerBatch, step: int, progress: float) -> dict[str, Tensor]:
        """Smooth L1 of landmarks and of boxes where they are known, and binary cross-entropy of the score."""
        del step, progress
        settings = self.recipe.loss
        points, boxes, logits = self.module(batch.squares.contiguous(memory_format=torch.channels_last))
        return {
            "landmarks": settings.landmarks * _regression(points, batch.points, batch.points_known, settings.beta),
            "boxes": settings.boxes * _regression(boxes, batch.boxes, batch.boxes_known, settings.beta),
            "score": settings.score * functional.binary_cross_entropy_with_logits(logits.float(), batch.faces),
        }

    @torch.no_grad()
    def validate(self, student: nn.Module) -> dict[str, float]:
        """Figures on what a detector found in validation photographs.

        Returns:
            ``nme`` of the landmarks that people placed (of all, if none are), by the distance of the eyes; ``before``,
            that of the detector; ``auc``, how often a face scores higher than a false alarm; and ``score``, the last
            less the first.
        """
        student.eval()
        apply, device = self.recipe.preprocessing.apply, next(student.parameters()).device
        runs = [
            student(torch.from_numpy(apply(self._val_pixels[start : start + 256])).to(device))
            for start in range(0, len(self._val_pixels), 256)
        ]
        points, logits = (torch.cat([run[i].cpu() for run in runs]) for i in (0, 2))
        wanted = self._val
        faces, others = logits[wanted.faces > 0], logits[wanted.faces == 0]
        auc = float((faces[:, None] > others).float().mean()) if len(faces) and len(others) else 1.0
        nme = _mean_error(points, wanted)
        return {"score": auc - nme, "nme": nme, "before": _mean_error(torch.zeros_like(points), wanted), "auc": auc}

    def export(self, student: nn.Module, path: Path) -> None:
        """Graph ``squares`` (N, 3, 64, 64) to ``points`` (N, 10), ``boxes`` (N, 4) and ``scores`` (N,)."""
        if not isinstance(student, RefinerNetwork):
            raise TypeError(f"expected a RefinerNetwork to export, got {type(student).__name__}")
        export_onnx(
            ExportedRefiner(student),
            torch.zeros(2, 3, SIDE_PX, SIDE_PX),
            path,
            inputs=["squares"],
            outputs=list(OUTPUTS),
            dynamic_axes={name: {0: "faces"} for name in ("squares", *OUTPUTS)},
        )

    def data_digests(self) -> dict[str, str]:
        """See `facekd.engine.task.KnowsItsData`: which collections. Patches lie as a detector sees the faces, and it
        may see them another way with more threads."""
        data = self.recipe.data
        return {
            "training": digest_of((str(source.photographs), str(source.labels)) for source in data.sources),
            "validation": digest_of([str(data.validation.photographs), str(data.validation.labels)]),
        }


def make_batch(
    squares: NDArray[np.float32], faces: NDArray[np.bool_], points: NDArray[np.float32], boxes: NDArray[np.float32]
) -> RefinerBatch:
    """A batch from squares (N, 3, 64, 64) and codes in which NaN stands for unknown."""
    points_known, boxes_known = (np.isfinite(codes).all(axis=1).astype(np.float32) for codes in (points, boxes))
    arrays = (squares, faces.astype(np.float32), np.nan_to_num(points), np.nan_to_num(boxes), points_known, boxes_known)
    return RefinerBatch(*map(torch.from_numpy, arrays))


def judged_squares(patches: Patches) -> tuple[RefinerBatch, NDArray[np.uint8]]:
    """What a detector laid, nearly as the run time would show it (patches are one resampling away).

    Landmarks are judged where they weigh most: where people placed them, if a recipe weighs these more.

    Raises:
        DataError: the detector found no face whose landmarks are known.
    """
    rows = np.flatnonzero(patches.framed)
    known = np.isfinite(patches.points[rows]).all(axis=(1, 2))
    if not known.any():
        raise DataError("the detector found no face with known landmarks in the validation photographs to judge by")
    best = patches.weights[rows][known].max()
    still = SquareSettings(shift=0.0, turn=0.0, scale=0.0, flip=0.0, small=0.0)
    nothing = ChangeSettings(**dict.fromkeys(ChangeSettings.model_fields, 0.0))
    rng = np.random.default_rng(0)
    drawn = [draw_square(patches, int(row), still, nothing, rng) for row in rows]
    pixels, points, boxes = (np.stack(parts) for parts in zip(*drawn, strict=True))
    points[patches.weights[rows] < best] = np.nan
    return make_batch(np.empty((len(rows), 0), np.float32), patches.faces[rows], points, boxes), pixels


def _regression(predicted: Tensor, wanted: Tensor, known: Tensor, beta: float) -> Tensor:
    errors = functional.smooth_l1_loss(predicted.float(), wanted, reduction="none", beta=beta)
    return (errors.mean(dim=1) * known).sum() / known.sum().clamp(min=1.0)


def _mean_error(points: Tensor, wanted: RefinerBatch) -> float:
    known = wanted.points_known > 0
    template = torch.from_numpy(TEMPLATE / EYES_PX).float()
    truth = wanted.points[known].view(-1, 5, 2) + template
    errors = (points[known].view(-1, 5, 2) + template - truth).norm(dim=2).mean(dim=1)
    return float((errors / (truth[:, 1] - truth[:, 0]).norm(dim=1)).mean())


def build_task(recipe: Recipe, say: Callable[[str], None] | None = None) -> Task:
    """A refiner's training from its recipe: photographs are read, the detector looks at them, patches are cut.

    Args:
        recipe: what to train, from what.
        say: called with one line about what was loaded or left out; standard error by default.

    Raises:
        DataError: photographs or labels are missing.
        ModelError: the weights to start from do not fit.
    """
    say = say or Console(stderr=True).print
    detector = Detector(recipe.data.detector, threads=recipe.training.threads, refiner=None)
    train = [part for source in recipe.data.sources for part in _patches(source, recipe.data, detector, say)]
    val = _patches(recipe.data.validation, recipe.data, detector, say)
    return RefinerTask(recipe, Patches.join(train), Patches.join(val))


def _patches(
    source: LabelledSource, data: DataSettings, detector: Detector, say: Callable[[str], None]
) -> list[Patches]:
    parts = [
        cut_patches(rgb, label, detector.detect_raw(rgb, data.least_score, resize=True)[: data.most], weight)
        for _, rgb, label, weight in read_source(source, data.folders, say)
    ]
    faces, every = sum(int(part.faces.sum()) for part in parts), sum(len(part) for part in parts)
    say(f"{source.labels}: {faces} patches with a face, {every - faces} without")
    return parts
