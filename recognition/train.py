"""Train an embedder: imitation of a teacher's embeddings on every crop, CurricularFace on those with an identity."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor, nn

from facekd.distill.embedding import cosine_embedding_loss
from facekd.distill.relation import similarity_matrix_loss
from facekd.engine.export import export_onnx, load_onnx_weights
from facekd.engine.settings import Fraction, Section, TrainingSettings
from facekd.errors import ConfigError
from facekd.evaluation.verification import tar_at_far
from facekd.recognition.backbones import BACKBONES
from facekd.recognition.data.augment import Augmentation, augment
from facekd.recognition.data.balanced import BalancedSampler
from facekd.recognition.data.encoded import Crops
from facekd.recognition.data.shards import TABLE, FaceSet, read_faces
from facekd.recognition.data.sources import read_training
from facekd.recognition.margins import MARGIN_HEADS
from facekd.recognition.preprocessing import ALIGNED_CROP
from facekd.zoo import Preprocessing


class NetworkSettings(Section):
    """The student.

    Attributes:
        backbone: a name in ``facekd.recognition.backbones.BACKBONES``.
        dimension: length of the embedding.
        options: further arguments of that backbone.
        init: ONNX file to start from instead of noise (a committed model, or an earlier run's ``best.onnx``).
    """

    backbone: str = "dense_resnet"
    dimension: int = Field(default=512, ge=8)
    options: dict[str, Any] = Field(default_factory=dict)
    init: Path | None = None

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in BACKBONES:
            raise ValueError(f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}")
        return name


class DataSettings(Section):
    """Which crops.

    Attributes:
        folders: folders as ``facekd prepare`` writes them, read as one set. Beside them, for training only:
            ``train.rec`` with ``train.idx``, WebDataset tars, or one folder of aligned crops a person.
        labelled_share: least share of a batch that has identities; 0 draws all crops alike.
        crops_per_person: draw that share person by person, so many crops of each, all people alike; 0 draws crops.
        batch: crops in a batch at the last size; smaller sizes use the same number.
        sizes: ``[share of the schedule, pixels]`` pairs: from that share on, crops have this side. Small crops
            first let a slow machine see several times as many photographs.
        augmentation: what is done to a crop.
    """

    folders: tuple[Path, ...] = ()
    labelled_share: Fraction = 0.4
    crops_per_person: int = Field(default=0, ge=0)
    batch: int = Field(default=64, ge=2)
    sizes: tuple[tuple[Fraction, int], ...] = ((0.0, 112),)
    augmentation: Augmentation = Augmentation()

    @field_validator("sizes")
    @classmethod
    def _rising(cls, sizes: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
        if not sizes or sizes[0][0] != 0.0 or any(a[0] >= b[0] for a, b in pairwise(sizes)):
            raise ValueError("sizes must start at share 0 and rise: [[0.0, 64], [0.6, 112]]")
        return sizes


class DistillSettings(Section):
    """What is taken from the teacher; weights of 0 switch a term off.

    Attributes:
        teacher: name of the cached embeddings, ``teacher_NAME.npy`` in each folder.
        cosine: weight of one minus the cosine between the adapted embedding and the teacher's.
        similarity: weight of the difference of the batch's similarity matrices, of the embedding itself.
    """

    teacher: str = "sface"
    cosine: float = Field(default=1.0, ge=0)
    similarity: float = Field(default=4.0, ge=0)


class MarginSettings(Section):
    """The classification loss over the labelled people.

    Attributes:
        head: which margin.
        weight: of the loss in the sum; 0 switches it off.
        scale: factor on the cosines; the papers' 64 is for tens of thousands of people.
        margin: radians for CurricularFace and ArcFace, a cosine for CosFace, both for AdaFace.
        ramp: ``[start, end]`` shares of the schedule between which the weight rises from 0.
    """

    head: Literal["curricularface", "arcface", "cosface", "adaface"] = "curricularface"
    weight: float = Field(default=0.05, ge=0)
    scale: float = Field(default=32.0, gt=0)
    margin: float = Field(default=0.4, ge=0)
    ramp: tuple[Fraction, Fraction] = (0.1, 0.4)


class Recipe(Section):
    """Everything that makes one embedder."""

    kind: Literal["embedder"]
    training: TrainingSettings
    network: NetworkSettings = NetworkSettings()
    data: DataSettings = DataSettings()
    distill: DistillSettings = DistillSettings()
    margin: MarginSettings = MarginSettings()
    preprocessing: Preprocessing = ALIGNED_CROP


class EmbedderTask:
    """See ``facekd.engine.task.Task``.

    Args:
        recipe: what to learn and how.
        train: the training crops; with the teacher's embeddings unless both distillation weights are 0.
        val: labelled validation crops.
    """

    def __init__(self, recipe: Recipe, train: FaceSet, val: FaceSet) -> None:
        self.recipe = recipe
        self._train = train
        self._val = val
        self._labelled = np.flatnonzero(train.labels >= 0)
        each = recipe.data.crops_per_person
        self._balanced = BalancedSampler(train.labels, each) if each and len(self._labelled) else None
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._lock = Lock()  # batches are prepared in background threads
        torch.manual_seed(recipe.training.seed)
        network = recipe.network
        self.student: nn.Module = BACKBONES[network.backbone](dimension=network.dimension, **network.options)
        if network.init is not None:
            load_onnx_weights(self.student, network.init)
        self.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward = torch.compile(self.student, dynamic=False) if recipe.training.compile else self.student
        parts: dict[str, nn.Module] = {"student": self.student}
        if self._distils:
            if train.teacher is None:
                raise ConfigError("The recipe distils, but the crops come without the teacher's embeddings")
            parts["adapter"] = nn.Linear(network.dimension, train.teacher.shape[1], bias=False)
        if recipe.margin.weight:
            if len(train.people) < 2:
                raise ConfigError("A margin loss needs crops of at least two people; set margin.weight = 0 without")
            parts["head"] = MARGIN_HEADS[recipe.margin.head](
                len(train.people), network.dimension, recipe.margin.scale, recipe.margin.margin
            )
        self.module = nn.ModuleDict(parts)
        if network.init is not None:
            self._refit()

    @property
    def _distils(self) -> bool:
        return self.recipe.distill.cosine > 0 or self.recipe.distill.similarity > 0

    def batch(self, step: int) -> dict[str, Tensor]:
        """Crops float32 (N, 3, H, W), labels (N,), and the teacher's embeddings (N, T)."""
        settings = self.recipe.data
        rng = np.random.default_rng((self.recipe.training.seed, step))
        chosen = self._draw(step, rng)
        # At full size always: which size is wanted depends on progress, which only losses() knows.
        preprocessing = self.recipe.preprocessing
        side = preprocessing.width
        crops = np.stack([augment(self._train.crops[i], side, settings.augmentation, rng) for i in chosen])
        batch = {
            "crops": torch.from_numpy(preprocessing.apply(crops)),
            "labels": torch.from_numpy(self._train.labels[chosen]),
        }
        if self._train.teacher is not None:
            batch["teacher"] = torch.from_numpy(self._train.teacher[chosen])
        return batch

    def _draw(self, step: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Indices of a batch: passes over all crops in a new order each, topped up with labelled ones."""
        settings, total = self.recipe.data, len(self._train)
        extra = round(settings.batch * settings.labelled_share) if len(self._labelled) else 0
        plain = settings.batch - extra
        numbers, places = np.divmod(np.arange(step * plain, (step + 1) * plain), total)
        orders = {int(number): self._order(int(number)) for number in np.unique(numbers)}
        base = np.array([orders[int(n)][p] for n, p in zip(numbers, places, strict=True)], np.int64)
        if not extra:
            return base
        drawn = self._balanced.draw(extra, rng) if self._balanced else rng.choice(self._labelled, extra)
        return np.concatenate([base, drawn])

    def _order(self, number: int) -> NDArray[np.int64]:
        """The order of the crops in one pass over all of them."""
        with self._lock:
            if number not in self._orders:
                self._orders = {n: o for n, o in self._orders.items() if n >= number - 1}
                rng = np.random.default_rng((self.recipe.training.seed, 7, number))
                self._orders[number] = rng.permutation(len(self._train))
            return self._orders[number]

    def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
        """The terms of the recipe whose weight is not 0."""
        recipe = self.recipe
        size = [side for start, side in recipe.data.sizes if start <= progress][-1]
        crops = batch["crops"]
        if size != crops.shape[-1]:
            crops = F.interpolate(crops, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        embeddings = self._forward(crops.contiguous(memory_format=torch.channels_last)).float()
        terms: dict[str, Tensor] = {}
        if recipe.distill.cosine:
            adapted = self.module["adapter"](embeddings)
            terms["cosine"] = recipe.distill.cosine * cosine_embedding_loss(adapted, batch["teacher"])
        if recipe.distill.similarity:
            terms["similarity"] = recipe.distill.similarity * similarity_matrix_loss(embeddings, batch["teacher"])
        start, end = recipe.margin.ramp
        weight = recipe.margin.weight * min(max((progress - start) / max(end - start, 1e-9), 0.0), 1.0)
        known = batch["labels"] >= 0
        if weight and bool(known.any()):
            terms["margin"] = weight * self.module["head"](embeddings[known], batch["labels"][known])
        return terms

    def validate(self, student: nn.Module) -> dict[str, float]:
        """TAR over all pairs of the labelled validation crops; the score is that at FAR 1e-3."""
        embeddings = embed(student, self._val.crops, self.recipe.preprocessing)
        first, second = np.triu_indices(len(embeddings), 1)
        scores = (embeddings @ embeddings.T)[first, second]
        mated = self._val.labels[first] == self._val.labels[second]
        tar = {far: tar_at_far(scores[mated], scores[~mated], far).tar for far in (1e-2, 1e-3, 1e-4)}
        return {"score": tar[1e-3], "tar_1e-2": tar[1e-2], "tar_1e-4": tar[1e-4]}

    def export(self, student: nn.Module, path: Path) -> None:
        """Graph ``face`` (N, 3, 112, 112) -> ``embedding`` (N, D)."""
        export_embedder(student, path)

    def _refit(self) -> None:
        """Adapter by least squares and class centres as mean embeddings: both belong to the weights just loaded."""
        rng = np.random.default_rng(self.recipe.training.seed)
        if "adapter" in self.module and self._train.teacher is not None:
            chosen = rng.choice(len(self._train), min(len(self._train), 3000), replace=False)
            solution = np.linalg.lstsq(
                embed(self.student, self._train.crops[chosen], self.recipe.preprocessing),
                self._train.teacher[chosen],
                rcond=None,
            )[0]
            self.module["adapter"].weight.data = torch.from_numpy(solution.T.astype(np.float32).copy())
        if "head" in self.module:
            chosen = _some_of_each(self._train.labels, 6, rng)
            embeddings = embed(self.student, self._train.crops[chosen], self.recipe.preprocessing)
            centres = np.zeros((len(self._train.people), embeddings.shape[1]), np.float32)
            np.add.at(centres, self._train.labels[chosen], embeddings)
            centres /= np.linalg.norm(centres, axis=1, keepdims=True)
            self.module["head"].weight.data = torch.from_numpy(centres)


def _some_of_each(labels: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Up to ``most`` indices of each label but -1."""
    order = rng.permutation(len(labels))
    seen: dict[int, int] = {}
    chosen = []
    for index in order:
        label = int(labels[index])
        if label >= 0 and seen.get(label, 0) < most:
            seen[label] = seen.get(label, 0) + 1
            chosen.append(index)
    return np.array(chosen, np.int64)


@torch.no_grad()
def embed(
    network: nn.Module, crops: Crops, preprocessing: Preprocessing = ALIGNED_CROP, batch: int = 128
) -> NDArray[np.float32]:
    """Unit-length embeddings (N, D) of crops uint8 (N, 112, 112, 3) by a torch network in evaluation mode."""
    training = network.training
    network.eval()
    parts = []
    for start in range(0, len(crops), batch):
        pixels = torch.from_numpy(preprocessing.apply(crops[start : start + batch]))
        device = next(network.parameters()).device
        parts.append(F.normalize(network(pixels.to(device, memory_format=torch.channels_last)).float()).cpu().numpy())
    network.train(training)
    return np.concatenate(parts)


def export_embedder(network: nn.Module, path: Path) -> None:
    """Write an embedder as ONNX: ``face`` (N, 3, 112, 112) -> ``embedding`` (N, D), not normalised."""
    export_onnx(
        network,
        torch.zeros(1, 3, ALIGNED_CROP.height, ALIGNED_CROP.width),
        path,
        inputs=["face"],
        outputs=["embedding"],
        dynamic_axes={"face": {0: "faces"}, "embedding": {0: "faces"}},
    )


def build_task(recipe: Recipe) -> EmbedderTask:
    """Read the data that a recipe names and make its task."""
    distils = recipe.distill.cosine > 0 or recipe.distill.similarity > 0
    train = read_training(recipe.data.folders, teacher=recipe.distill.teacher if distils else None)
    folders = [folder for folder in recipe.data.folders if _has_split(folder, "val")]
    if not folders:
        raise ConfigError("None of the data folders has a val split: it is what the best weights are chosen by")
    return EmbedderTask(recipe, train, read_faces(folders, "val", labelled_only=True))


def _has_split(folder: Path, split: str) -> bool:
    table = folder / TABLE
    if not table.is_file():
        return False
    with table.open(newline="", encoding="utf-8") as rows:
        return any(row.get("split") == split for row in csv.DictReader(rows))
