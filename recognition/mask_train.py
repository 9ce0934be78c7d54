"""Train the mask-status head on aligned crops: none, mask, incorrect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from facekd.distill.opening import build_network, cached_answers, distil
from facekd.distill.settings import DistillSettings
from facekd.engine.digests import digest_of
from facekd.engine.export import export_onnx, load_onnx_weights
from facekd.engine.settings import Fraction, Section, UncompiledTraining, WeightsFile
from facekd.engine.task import Task
from facekd.errors import ConfigError
from facekd.recognition.data.augment import Augmentation, augment
from facekd.recognition.data.composed_masks import compose_correct, compose_incorrect, compose_none
from facekd.recognition.data.encoded import Crops, joined_crops
from facekd.recognition.data.mask_screening import screen_labels
from facekd.recognition.data.mask_shards import MaskSet, read_masks
from facekd.recognition.data.shards import read_faces
from facekd.recognition.kept_answers import KeptAnswers, as_teachers, batch_answers, fixed_crops
from facekd.recognition.mask import MASK_STATUSES as STATUSES
from facekd.recognition.mask import MaskHead
from facekd.recognition.mask_networks import MASK_NETWORKS, EmbedderMask
from facekd.recognition.preprocessing import ALIGNED_CROP
from facekd.zoo import Preprocessing

# A mask drawn over a face would change its label, and a patch over mouth or nose may hide what decides it.
LABEL_PRESERVING = Augmentation(mask=0.0, occlude=0.0, shift=0.06, zoom=0.1, rotate_degrees=8.0, light=0.3)


class NetworkSettings(Section):
    """The network.

    Attributes:
        architecture: a name in ``facekd.recognition.mask_networks.MASK_NETWORKS``; the default takes ``widths`` and
            ``dropout``, the others ``options``.
        widths: channels of its three groups.
        dropout: share of the pooled features dropped in training.
        options: arguments of another architecture.
        init: ONNX file, or model of the zoo, to start from instead of noise.
        trunk: embedder of the zoo, or its ONNX file, that the architecture ``embedder`` starts from.
    """

    architecture: str = "mask_network"
    widths: tuple[int, int, int] = (24, 48, 96)
    dropout: Fraction = 0.2
    options: dict[str, Any] = Field(default_factory=dict)
    init: WeightsFile | None = None
    trunk: WeightsFile | None = None

    @model_validator(mode="after")
    def _heeded(self) -> NetworkSettings:
        changed = [
            name for name in ("widths", "dropout") if getattr(self, name) != type(self).model_fields[name].default
        ]
        if changed and self.architecture != "mask_network":
            raise ValueError(
                f"{' and '.join(changed)} belongs to mask_network, and {self.architecture!r} ignores it: leave it out; "
                "what that network takes goes into options"
            )
        if self.trunk is not None and self.init is not None:
            raise ValueError("init replaces what trunk would start from: give one of them")
        return self


class DataSettings(Section):
    """Which crops, and how often.

    Attributes:
        folders: exactly one folder with ``mask.csv``.
        batch: crops in a batch.
        shares: of none, mask and incorrect in a batch. Wearing it wrongly is rare in the data and matters most.
        composed: of each of the three, the share that is composed of two people's crops
            (``facekd.recognition.data.composed_masks``).
        faces: folders of faces without masks as ``facekd prepare`` writes them; their training crops stand for the
            share ``faces_share`` of none.
        faces_share: see there.
        screen_by: ONNX file, with its record beside it, of a mask head that looks through the training labels first:
            a crop that it gives another status with at least the probability ``relabel_above`` takes that one, and one
            that gets less than ``left_out_below`` for its own status is left out.
        relabel_above, left_out_below: see there.
        augmentation: what is done to a crop; must not change its label.
    """

    folders: tuple[Path, ...] = ()
    batch: int = Field(default=64, ge=3)
    shares: tuple[Fraction, Fraction, Fraction] = (0.35, 0.4, 0.25)
    composed: tuple[Fraction, Fraction, Fraction] = (0.0, 0.0, 0.0)
    faces: tuple[Path, ...] = ()
    faces_share: Fraction = 0.5
    screen_by: Path | None = None
    relabel_above: Fraction = 0.6
    left_out_below: Fraction = 0.25
    augmentation: Augmentation = LABEL_PRESERVING

    @field_validator("shares")
    @classmethod
    def _some(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if not any(shares):
            raise ValueError("of none, mask and incorrect one at least must be above 0")
        return shares


class Recipe(Section):
    """Everything that makes one mask head.

    Attributes:
        label_smoothing: share of the target that is spread over the other classes: a few labels of the training
            crops are wrong.
        distill: what is learnt from teachers beside the labels.
    """

    kind: Literal["mask"]
    training: UncompiledTraining
    network: NetworkSettings = NetworkSettings()
    data: DataSettings = DataSettings()
    label_smoothing: Fraction = 0.1
    distill: DistillSettings = DistillSettings()
    preprocessing: Preprocessing = ALIGNED_CROP


class MaskTask:
    """See ``facekd.engine.task.Task``.

    Args:
        recipe: what to learn and how.
        train: labelled training crops.
        val: labelled validation crops.
        faces: more training crops without a mask.
        cached: what teachers said about ``training_crops(train, faces)``, by name; none where crops are composed.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: MaskSet,
        val: MaskSet,
        faces: Crops | None = None,
        cached: Mapping[str, KeptAnswers] | None = None,
    ) -> None:
        self.recipe = recipe
        self._cached = cached or {}
        self._faces = faces
        self._train = train
        self._val = val
        self._of_class = [np.flatnonzero(train.labels == label) for label in range(len(STATUSES))]
        for split, crops in (("training", train), ("validation", val)):
            for label, status in enumerate(STATUSES):
                if not np.any(crops.labels == label):
                    raise ConfigError(
                        f"The {split} crops have none labelled {status!r}: mask.csv must name some of each status"
                    )
        torch.manual_seed(recipe.training.seed)
        self.student: nn.Module = _make_network(recipe.network)
        if recipe.network.init is not None:
            load_onnx_weights(self.student, recipe.network.init)
        elif recipe.network.trunk is not None:
            if not isinstance(self.student, EmbedderMask):
                raise ConfigError(
                    f"network.trunk is for the architecture 'embedder', not {recipe.network.architecture!r}"
                )
            load_onnx_weights(self.student.trunk, recipe.network.trunk)
        self.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module = self.student

    def batch(self, step: int) -> dict[str, Tensor]:
        """Crops float32 (N, 3, 112, 112) and labels (N,), classes in the recipe's shares."""
        settings = self.recipe.data
        rng = np.random.default_rng((self.recipe.training.seed, step))
        shares = np.array(settings.shares) / sum(settings.shares)
        preprocessing = self.recipe.preprocessing
        classes = rng.choice(len(STATUSES), settings.batch, p=shares)
        drawn = [self._draw(int(status), rng) for status in classes]
        crops = np.stack([augment(crop, preprocessing.width, settings.augmentation, rng) for crop, _ in drawn])
        return {
            "crops": torch.from_numpy(preprocessing.apply(crops)),
            "labels": torch.from_numpy(classes),
            **batch_answers(self._cached, [place for _, place in drawn]),
        }

    def _draw(self, status: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], int]:
        """A crop of one status, as it is, with its place among the training crops, or composed of two, with -1."""
        if rng.random() >= self.recipe.data.composed[status]:
            return self._one(status, rng)
        if STATUSES[status] == "none":
            return compose_none(self._one(status, rng)[0], self._one(status, rng)[0], rng), -1
        composed = compose_correct if STATUSES[status] == "mask" else compose_incorrect
        bare, masked = (self._one(STATUSES.index(kind), rng)[0] for kind in ("none", "mask"))
        return composed(bare, masked, rng), -1

    def _one(self, status: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], int]:
        if self._faces is not None and STATUSES[status] == "none" and rng.random() < self.recipe.data.faces_share:
            place = int(rng.integers(len(self._faces)))
            return self._faces[place], len(self._train) + place
        place = int(rng.choice(self._of_class[status]))
        return self._train.crops[place], place

    def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
        """Cross-entropy with label smoothing."""
        del step, progress
        logits = self.student(batch["crops"].contiguous(memory_format=torch.channels_last))
        return {"label": F.cross_entropy(logits.float(), batch["labels"], label_smoothing=self.recipe.label_smoothing)}

    def validate(self, student: nn.Module) -> dict[str, float]:
        """Accuracy and each status' recall; the score is the mean of accuracy and mean recall: rare statuses count."""
        predicted = predict_logits(student, self._val.crops, self.recipe.preprocessing).argmax(1)
        right = predicted == self._val.labels
        recall = {f"recall_{s}": float(right[self._val.labels == i].mean()) for i, s in enumerate(STATUSES)}
        accuracy = float(right.mean())
        return {"score": 0.5 * accuracy + 0.5 * float(np.mean(list(recall.values()))), "accuracy": accuracy, **recall}

    def export(self, student: nn.Module, path: Path) -> None:
        """Graph ``face`` (N, 3, 112, 112) -> ``logits`` (N, 3)."""
        export_onnx(
            student,
            torch.zeros(1, 3, ALIGNED_CROP.height, ALIGNED_CROP.width),
            path,
            inputs=["face"],
            outputs=["logits"],
            dynamic_axes={"face": {0: "faces"}, "logits": {0: "faces"}},
        )

    def data_digests(self) -> dict[str, str]:
        """See ``facekd.engine.task.KnowsItsData``: the labels, crop by crop."""
        faces = 0 if self._faces is None else len(self._faces)
        return {"training": digest_of([self._train.labels, faces]), "validation": digest_of([self._val.labels])}


@torch.no_grad()
def predict_logits(
    network: nn.Module, crops: NDArray[np.uint8], preprocessing: Preprocessing = ALIGNED_CROP, batch: int = 256
) -> NDArray[np.float32]:
    """Logits (N, 3) of crops uint8 (N, 112, 112, 3) by a torch network in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    return np.concatenate(
        [
            network(torch.from_numpy(preprocessing.apply(crops[i : i + batch])).to(device)).float().cpu().numpy()
            for i in range(0, len(crops), batch)
        ]
    )


def _make_network(settings: NetworkSettings) -> nn.Module:
    options = dict(settings.options)
    if settings.architecture == "mask_network":
        options = {"widths": settings.widths, "dropout": settings.dropout} | options
    return build_network(MASK_NETWORKS, settings.architecture, options)


def read_training(data: DataSettings) -> tuple[MaskSet, Crops | None]:
    """The labelled training crops of the first folder, screened if the recipe says so, and faces without masks."""
    train = read_masks(data.folders[0], "train")
    if data.screen_by is not None:
        probabilities = MaskHead(data.screen_by).probabilities(train.crops)
        train = screen_labels(train, probabilities, data.relabel_above, data.left_out_below)
    return train, read_faces(data.faces, "train").crops if data.faces else None


def training_crops(train: MaskSet, faces: Crops | None) -> Crops:
    """All crops that batches are drawn from, in the order by which answers to them are kept."""
    return train.crops if faces is None else joined_crops([train.crops, faces])


def build_task(recipe: Recipe) -> Task:
    """Read the data that a recipe names and make its task; with teachers where the recipe distils."""
    if len(recipe.data.folders) != 1:
        raise ConfigError("The mask head trains on one folder: pass --data DIR (a folder with mask.csv) once")
    if any(recipe.data.composed) and any(item.cache is not None for item in recipe.distill.teachers.values()):
        raise ConfigError(
            "a teacher's cache holds answers to the training crops, and data.composed makes new ones of two: set "
            "data.composed = [0, 0, 0], or leave cache out"
        )
    train, faces = read_training(recipe.data)
    pictures = fixed_crops(training_crops(train, faces), recipe.preprocessing, recipe.data.augmentation)
    cached = cached_answers(recipe.distill, MASK_NETWORKS, pictures)
    task = MaskTask(recipe, train, read_masks(recipe.data.folders[0], "val"), faces, cached)
    return distil(task, recipe.distill, MASK_NETWORKS, seed=recipe.training.seed, stored_teachers=as_teachers(cached))
