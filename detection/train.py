"""The detector as a task of the training engine: recipe, batches, losses, validation and export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn

from facekd.detection.anchors import STRIDES, anchors
from facekd.detection.codec import decode_boxes
from facekd.detection.data.batches import BatchMaker, DetectionBatch, Phase, unreached
from facekd.detection.data.changes import ChangeSettings
from facekd.detection.data.crops import CropSettings
from facekd.detection.data.photographs import Photograph, SourceSettings, load_source, read_photographs, require_data
from facekd.detection.labels import LabelledPhotograph, read_labels
from facekd.detection.loss import LossSettings, multibox_loss
from facekd.detection.network import ExportedRetinaFace, NetworkSettings, RetinaFace
from facekd.detection.nms import nms
from facekd.distill.opening import distil
from facekd.distill.settings import DistillSettings
from facekd.engine.digests import digest_of
from facekd.engine.export import export_onnx, load_onnx_weights
from facekd.engine.settings import Section, UncompiledTraining, WeightsFile
from facekd.engine.task import Task
from facekd.errors import DataError
from facekd.evaluation.detection import PhotographDetections, detection_figures
from facekd.zoo import Preprocessing

LabelledPixels = tuple[NDArray[np.uint8], LabelledPhotograph]


class ValidationSettings(Section):
    """What the averaged weights are judged by, every few minutes.

    Attributes:
        photographs, labels: a labelled split that is not trained on, looked for in the data folders.
        limit: so many of its photographs, evenly spread; 0 takes all.
        score_threshold: detections below it are not even counted.
        nms_iou: overlap from which the lower of two detections is dropped.
    """

    photographs: Path
    labels: Path
    limit: int = Field(default=150, ge=0)
    score_threshold: float = Field(default=0.02, ge=0, le=1)
    nms_iou: float = Field(default=0.4, gt=0, le=1)


class DataSettings(Section):
    """What is trained on and judged by.

    Attributes:
        folders: where the paths of sources and validation are looked for, in order; the working folder if none.
        sources: collections to train on.
        validation: see there.
        test: what a comparison of finished detectors publishes; no training ever reads it.
    """

    folders: tuple[Path, ...] = ()
    sources: tuple[SourceSettings, ...] = Field(min_length=1)
    validation: ValidationSettings
    test: ValidationSettings | None = None


class StudentSettings(NetworkSettings):
    """The network, and where its weights start.

    Attributes:
        init: an exported detector of the same shape, or the name of a model of the zoo; without it the network starts
            from noise.
    """

    init: WeightsFile | None = None


class Recipe(Section):
    """A whole recipe for a detector.

    Attributes:
        kind: says that this recipe is for a detector.
        preprocessing: how pixels become the network's input; the same as in the zoo's manifest.
        data: photographs and labels.
        phases: crop sizes in order, small ones first: many large faces, then few small ones.
        network, crops, changes, loss, training: see there.
        distill: what is learnt from teachers beside the labels (method ``detection`` and those of features).
    """

    kind: Literal["detector"]
    preprocessing: Preprocessing
    data: DataSettings
    phases: tuple[Phase, ...] = Field(min_length=1)
    network: StudentSettings = StudentSettings()
    crops: CropSettings = CropSettings()
    changes: ChangeSettings = ChangeSettings()
    loss: LossSettings = LossSettings()
    distill: DistillSettings = DistillSettings()
    training: UncompiledTraining


@dataclass(frozen=True, slots=True, eq=False)
class DetectorData:
    """What a recipe trains on and is judged by, decoded.

    Attributes:
        collections: photographs to train on, collection by collection.
        weights: how often each collection is drawn from, relative to the others.
        held_out: of the same collections, to watch by.
        validation: photographs by which the best weights are chosen.
    """

    collections: list[list[Photograph]]
    weights: list[float]
    held_out: list[LabelledPixels]
    validation: list[LabelledPixels]

    @classmethod
    def load(cls, settings: DataSettings, say: Callable[[str], None]) -> DetectorData:
        """Read what the settings name.

        Args:
            settings: of a recipe.
            say: called with one line about what was loaded or left out.

        Raises:
            DataError: photographs or labels are missing.
        """
        collections, weights, held_out = [], [], list[LabelledPixels]()
        for source in settings.sources:
            photographs, kept = load_source(source, settings.folders, say)
            if photographs:
                collections.append(photographs)
                weights.append(source.weight)
            held_out += kept
            say(f"{source.labels}: {len(photographs)} photographs to train on, {len(kept)} to watch by")
        if not collections:
            wanted = ", ".join(str(source.photographs) for source in settings.sources)
            raise DataError(f"no photograph to train on ({wanted}): name the folder that holds them with --data")
        return cls(collections, weights, held_out, labelled_pixels(settings.validation, settings.folders))


class DetectorTask:
    """See `facekd.engine.task.Task`.

    Args:
        recipe: what to train.
        data: from what; several tasks may share it.
    """

    module: nn.Module
    student: nn.Module

    def __init__(self, recipe: Recipe, data: DetectorData) -> None:
        self.recipe = recipe
        if all(label.ignore.all() for _, label in data.validation):  # the average precision would be no number
            raise DataError(f"no photograph of {recipe.data.validation.labels} has a labelled face to judge by")
        torch.manual_seed(recipe.training.seed)
        network = RetinaFace(recipe.network)
        if recipe.network.init is not None:
            load_onnx_weights(ExportedRetinaFace(network), recipe.network.init)
        # The fast layout for convolutions on a processor; pictures arrive in it by nature.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.student = self.module = network
        self._batches = BatchMaker(
            data.collections, data.weights, recipe.phases, recipe.crops, recipe.changes, recipe.training.seed
        )
        self._collections, self._held_out, self._validation = data.collections, data.held_out, data.validation

    def batch(self, step: int) -> DetectionBatch:
        """The batch of a step."""
        return self._batches.batch(step)

    def losses(self, batch: DetectionBatch, step: int, progress: float) -> dict[str, Tensor]:
        """Score, box and landmark terms."""
        pictures = normalise(batch.pictures, self.recipe.preprocessing)
        return multibox_loss(self.module(pictures), batch, self.recipe.loss)

    def extras(self, pictures: Tensor, batch: DetectionBatch) -> dict[str, Tensor]:
        """What methods of distillation ask for by name; see `facekd.distill.task.DistilledTask`.

        Args:
            pictures: (N, 3, H, W) as the network sees them.
            batch: where they come from.

        Returns:
            ``anchors`` (A, 4), and the true faces: ``boxes`` (K, 4) and ``landmarks`` (K, 5, 2) in pixels (the batch's
            own entries of these names are codes), and ``photographs`` (K,), the picture of each.
        """
        squares = torch.from_numpy(anchors(pictures.shape[2], pictures.shape[3]).copy()).to(pictures.device)
        faces = {"boxes": batch.faces, "landmarks": batch.face_landmarks, "photographs": batch.face_pictures}
        return {"anchors": squares, **faces}

    def validate(self, student: nn.Module) -> dict[str, float]:
        """Average precision (``score``) and recalls on validation photographs; ``watch_ap`` on those held out."""
        figures = self._judge(student, self._validation)
        result = {
            "score": figures["ap"],
            "recall_p90": figures["recall_at_precision_0.90"],
            "recall_fppi0.1": figures["recall_at_fppi_0.1"],
        }
        if self._held_out:
            result["watch_ap"] = self._judge(student, self._held_out)["ap"]
        return result

    def export(self, student: nn.Module, path: Path) -> None:
        """Write scores and codes as the run time reads them; see the contract in `facekd.detection.anchors`."""
        if not isinstance(student, RetinaFace):
            raise TypeError(f"expected a RetinaFace to export, got {type(student).__name__}")
        export_detector(student, path)

    def data_digests(self) -> dict[str, str]:
        """See `facekd.engine.task.KnowsItsData`: the labelled boxes, photograph by photograph."""
        return {
            "training": digest_of(photograph.boxes for found in self._collections for photograph in found),
            "validation": digest_of(label.boxes for _, label in self._validation),
        }

    def _judge(self, student: nn.Module, photographs: list[LabelledPixels]) -> Mapping[str, float]:
        device = next(student.parameters()).device
        found = [detect(student, pixels, self.recipe, device) for pixels, _ in photographs]
        return detection_figures([label for _, label in photographs], found)


def build_task(recipe: Recipe, say: Callable[[str], None] | None = None) -> Task:
    """A detector's training from its recipe; with teachers where the recipe distils.

    Args:
        recipe: what to train, from what.
        say: called with one line about what was loaded or left out; standard error by default.

    Raises:
        DataError: photographs or labels are missing.
        ModelError: the weights to start from do not fit.
    """
    say = say or Console(stderr=True).print
    if remark := closing_remark(recipe, recipe.training.steps):
        say(remark)
    task = DetectorTask(recipe, DetectorData.load(recipe.data, say))
    return distil(task, recipe.distill, ARCHITECTURES, seed=recipe.training.seed)


def closing_remark(recipe: Recipe, steps: int) -> str:
    """A line about a run that ended after so many steps; empty where there is nothing to say."""
    return unreached(recipe.phases, steps)


def _exported_network(**options: Any) -> nn.Module:
    """A teacher's network in the shape that exported weights have: its layers are `network.pyramid` and so on."""
    return ExportedRetinaFace(RetinaFace(NetworkSettings.model_validate(options)))


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"retinaface": _exported_network}
"""Networks that a recipe may name as teacher; options are those of `NetworkSettings`."""


def normalise(pictures: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 RGB (N, H, W, 3) to float32 (N, 3, H, W) in channels-last memory, as `Preprocessing.apply` does."""
    values = pictures.to(torch.float32)
    values = (values - values.new_tensor(preprocessing.mean)) * values.new_tensor(preprocessing.scale)
    return values.permute(0, 3, 1, 2)


@torch.no_grad()
def detect(
    network: nn.Module, pixels: NDArray[np.uint8], recipe: Recipe, device: torch.device | str = "cpu"
) -> PhotographDetections:
    """One pass over a photograph at its own size, its right and lower edge filled up to multiples of 32.

    Args:
        network: in evaluation mode.
        pixels: (H, W, 3) uint8 RGB.
        recipe: says how pixels are prepared and which detections count.
        device: where the network is.
    """
    height, width = pixels.shape[:2]
    step = STRIDES[-1]
    padded = np.pad(pixels, ((0, -height % step), (0, -width % step), (0, 0)))
    predictions = network(normalise(torch.from_numpy(padded)[None].to(device), recipe.preprocessing))
    scores = predictions.logits[0].sigmoid().cpu().numpy()
    candidates = np.flatnonzero(scores >= recipe.data.validation.score_threshold)
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")][:1000]
    squares = anchors(padded.shape[0], padded.shape[1])[candidates]
    boxes = decode_boxes(predictions.boxes[0].cpu().numpy()[candidates], squares).astype(np.float32)
    kept = nms(boxes, scores[candidates], recipe.data.validation.nms_iou)
    return PhotographDetections(boxes[kept], scores[candidates][kept])


def export_detector(network: RetinaFace, path: Path) -> None:
    """Write a detector as ONNX: ``image`` to ``scores``, ``boxes``, ``landmarks``; batch, height and width vary."""
    outputs = ("scores", "boxes", "landmarks")
    export_onnx(
        ExportedRetinaFace(network),
        torch.zeros(1, 3, 64, 96),
        path,
        inputs=["image"],
        outputs=list(outputs),
        dynamic_axes={
            "image": {0: "batch", 2: "height", 3: "width"},
            **{name: {0: "batch", 1: "anchors"} for name in outputs},
        },
    )


def evenly(labels: list[LabelledPhotograph], limit: int) -> list[LabelledPhotograph]:
    """So many of the photographs, evenly spread; all where the limit is 0."""
    if not limit or len(labels) <= limit:
        return labels
    return [labels[index] for index in np.linspace(0, len(labels) - 1, limit).round().astype(int)]


def labelled_pixels(settings: ValidationSettings, folders: Sequence[Path]) -> list[LabelledPixels]:
    """The photographs of a labelled split.

    Raises:
        DataError: photographs or labels are missing.
    """
    labels = evenly(read_labels(require_data(settings.labels, folders)), settings.limit)
    return list(zip(read_photographs(require_data(settings.photographs, folders), labels), labels, strict=True))
