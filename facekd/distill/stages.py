"""What the comparison needs of a stage: tasks of one student and data for any seed, and one judge for all networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facekd.distill.opening import stored
from facekd.distill.teachers import CachedTeacher, Teacher
from facekd.engine.digests import digest_of
from facekd.engine.settings import TrainingSettings, parse_recipe
from facekd.engine.task import Task
from facekd.errors import ConfigError
from facekd.runtime import open_session


class Stage(Protocol):
    """One kind of network with its data, read once for all runs.

    Attributes:
        figures: names of what `judge` gives, the deciding one first. Higher is better for all.
        architectures: networks that a recipe may name as student or teacher.
        example: (1, 3, H, W) float32 input of the exported network.
    """

    figures: tuple[str, ...]
    architectures: Mapping[str, Callable[..., nn.Module]]
    example: np.ndarray

    def settings(self, seed: int) -> TrainingSettings:
        """How a run is trained."""

    def data_digest(self) -> str:
        """Over everything that was read to train on and to judge by, except what only some teachers said of it."""

    def task(self, seed: int, student: nn.Module | None) -> Task:
        """A new task; the same seed gives the same first weights and the same batches."""

    def teachers(self) -> dict[str, Teacher]:
        """Teachers whose answers come with the data."""

    def centres(self) -> dict[str, Tensor]:
        """Class centres of `teachers()` by name, where the data know people."""

    def judge(self, weights: Path) -> dict[str, float]:
        """Figures of an ONNX file on the split `test`: the same function for teachers and students."""

    def judge_stored(self) -> dict[str, dict[str, float]]:
        """Figures of `teachers()`, from what is stored of `test`; those that need the network itself are left out."""


class MaskStage:
    """The mask-status head; see `Stage`."""

    figures: tuple[str, ...] = ("accuracy", "recall_none", "recall_mask", "recall_incorrect")

    def __init__(self, table: dict[str, Any], source: Path) -> None:
        from facekd.recognition.data.mask_shards import read_masks
        from facekd.recognition.mask_networks import MASK_NETWORKS
        from facekd.recognition.mask_train import Recipe, read_training

        self._recipe = parse_recipe(Recipe, table, source)
        if len(self._recipe.data.folders) != 1:
            raise ConfigError("the mask head is compared on one folder: pass --data DIR (a folder with mask.csv) once")
        folder = self._recipe.data.folders[0]
        self._train, self._faces = read_training(self._recipe.data)
        self._val, self._test = (read_masks(folder, split) for split in ("val", "test"))
        self.architectures: Mapping[str, Callable[..., nn.Module]] = MASK_NETWORKS
        self.example = np.zeros((1, 3, 112, 112), np.float32)

    def settings(self, seed: int) -> TrainingSettings:
        """See `Stage`."""
        return self._recipe.training.model_copy(update={"seed": seed})

    def data_digest(self) -> str:
        """See `Stage`. Labels are those that screening left."""
        faces = [] if self._faces is None else [np.asarray(self._faces[:])]
        sets = (self._train, self._val, self._test)
        return digest_of([*(array for found in sets for array in (found.crops, found.labels)), *faces])

    def task(self, seed: int, student: nn.Module | None) -> Task:
        """See `Stage`."""
        from facekd.recognition.mask_train import MaskTask, NetworkSettings

        if student is not None and self._recipe.network != NetworkSettings():
            raise ConfigError(
                "student.architecture replaces the network of the training recipe, so that its [network] would have no "
                "effect: leave [student] out and set network.architecture and network.options"
            )
        recipe = self._recipe.model_copy(update={"training": self.settings(seed)})
        task: Any = MaskTask(recipe, self._train, self._val, self._faces)
        if student is not None:
            student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            task.student = task.module = student
        return cast(Task, task)

    def teachers(self) -> dict[str, Teacher]:
        """See `Stage`."""
        return {}

    def centres(self) -> dict[str, Tensor]:
        """See `Stage`."""
        return {}

    def judge(self, weights: Path) -> dict[str, float]:
        """See `Stage`."""
        from facekd.evaluation.classification import classification_figures
        from facekd.recognition.mask import MASK_STATUSES
        from facekd.recognition.preprocessing import ALIGNED_CROP

        session = open_session(weights.read_bytes())
        predicted = np.concatenate(
            [
                session.run({session.inputs[0]: ALIGNED_CROP.apply(self._test.crops[i : i + 64])})[0].argmax(1)
                for i in range(0, len(self._test), 64)
            ]
        )
        names = [MASK_STATUSES[k] for k in predicted]
        found = classification_figures([MASK_STATUSES[k] for k in self._test.labels], names, MASK_STATUSES)
        return {"accuracy": found["accuracy"], **{f"recall_{name}": value for name, value in found["recall"].items()}}

    def judge_stored(self) -> dict[str, dict[str, float]]:
        """See `Stage`."""
        return {}


class EmbedderStage:
    """The embedder; see `Stage`. The recipe's own terms are switched off: the comparison brings its own. Teachers
    whose answers lie with the crops are the recipe's.

    "Alone" is then what the recipe's margin loss makes of the labelled people.
    """

    figures: tuple[str, ...] = ("tar_1e-3", "tar_1e-4", "lfw")

    def __init__(self, table: dict[str, Any], source: Path, lfw: Path | None = None) -> None:
        from facekd.recognition.backbones import BACKBONES
        from facekd.recognition.data.shards import read_faces, read_faces_table
        from facekd.recognition.data.sources import held_out
        from facekd.recognition.data.stored_teacher import require_one_teacher
        from facekd.recognition.train import Recipe

        recipe = parse_recipe(Recipe, table, source)
        self._recipe = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"terms": ()})})
        if not recipe.margin.weight:
            raise ConfigError("the student alone learns from its margin loss: margin.weight must be above 0")
        folders = recipe.data.folders
        judged = [folder for folder in folders if {"val", "test"} <= {row["split"] for row in read_faces_table(folder)}]
        if not judged:
            raise ConfigError("none of the data folders has the splits val and test: there is nothing to judge by")
        named = stored(recipe.distill)
        for name in named:
            require_one_teacher(folders, name)
        self._train = read_faces(folders, "train", teachers=named, held_out=held_out(folders, 0.0))
        self._val = read_faces(judged, "val", labelled_only=True)
        self._test = read_faces(judged, "test", teachers=named, labelled_only=True)
        self._lfw = lfw
        if lfw is None:
            self.figures = ("tar_1e-3", "tar_1e-4")
        self.architectures: Mapping[str, Callable[..., nn.Module]] = BACKBONES
        self.example = np.zeros((1, 3, 112, 112), np.float32)

    def settings(self, seed: int) -> TrainingSettings:
        """See `Stage`."""
        return self._recipe.training.model_copy(update={"seed": seed})

    def data_digest(self) -> str:
        """See `Stage`. Of LFW, which does not change, nothing."""
        sets = (self._train, self._val, self._test)
        return digest_of([array for found in sets for array in (np.asarray(found.crops[:]), found.labels)])

    def task(self, seed: int, student: nn.Module | None) -> Task:
        """See `Stage`."""
        from facekd.recognition.train import EmbedderTask

        if student is not None:
            raise ConfigError("name the embedder's backbone in its recipe (network.backbone), not in the comparison")
        recipe = self._recipe.model_copy(update={"training": self.settings(seed)})
        return EmbedderTask(recipe, self._train, self._val)

    def teachers(self) -> dict[str, Teacher]:
        """See `Stage`."""
        # Which network it was is not known for sure, what it said is.
        return {
            name: CachedTeacher({"output": said.shape[1:]}, digest_of([said[:]]))
            for name, said in self._train.teachers.items()
        }

    def centres(self) -> dict[str, Tensor]:
        """See `Stage`."""
        from facekd.recognition.kept_answers import answers_centres, stored_answers

        return {name: answers_centres(kept, self._train) for name, kept in stored_answers(self._train).items()}

    def judge(self, weights: Path) -> dict[str, float]:
        """See `Stage`."""
        from facekd.recognition.evaluate import evaluate_lfw

        embedder = _OnnxEmbedder(weights)
        figures = self._true_accepts(embedder.embed(self._test.crops))
        if self._lfw is not None:
            figures["lfw"] = float(evaluate_lfw(self._lfw, embedder).figures()["accuracy"])
        return figures

    def judge_stored(self) -> dict[str, dict[str, float]]:
        """See `Stage`. LFW is left out: nothing is stored of it."""
        return {name: self._true_accepts(said[:]) for name, said in self._test.teachers.items()}

    def _true_accepts(self, embeddings: NDArray[np.float32]) -> dict[str, float]:
        """Over all pairs of the crops of `test`."""
        from facekd.evaluation.all_pairs import compare_all, operating_points

        names = [self._test.people[label] for label in self._test.labels]
        strict, stricter = operating_points(compare_all(embeddings, names), (1e-3, 1e-4))
        return {"tar_1e-3": strict.tar, "tar_1e-4": stricter.tar}


class _OnnxEmbedder:
    """An exported embedder on crops; a stranger's file brings no record, so facekd's preprocessing is assumed."""

    def __init__(self, weights: Path) -> None:
        self._session = open_session(weights.read_bytes())

    def embed(self, crops: Any) -> np.ndarray:
        from facekd.recognition.preprocessing import ALIGNED_CROP

        parts = []
        for start in range(0, len(crops), 64):
            given = ALIGNED_CROP.apply(crops[start : start + 64])
            parts.append(self._session.run({self._session.inputs[0]: given})[0])
        embeddings = np.concatenate(parts)
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def open_stage(table: dict[str, Any], source: Path, lfw: Path | None = None) -> Stage:
    """The stage of a training recipe, with its data read.

    Raises:
        ConfigError: a kind that cannot be compared.
    """
    if table.get("kind") == "mask":
        return MaskStage(table, source)
    if table.get("kind") == "embedder":
        return EmbedderStage(table, source, lfw)
    if table.get("kind") == "detector":
        from facekd.distill.detector_stage import DetectorStage

        return DetectorStage(table, source)
    raise ConfigError(f"{source}: kind {table.get('kind')!r} cannot be compared; known are mask, embedder, detector")
