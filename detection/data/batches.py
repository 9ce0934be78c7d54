"""Batches for the trainer: each a pure function of seed and step, whatever thread makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from facekd.detection.anchors import STRIDES
from facekd.detection.data.changes import ChangeSettings, change
from facekd.detection.data.crops import Crop, CropSettings, draw_crop, join_mosaic
from facekd.detection.data.photographs import Photograph
from facekd.detection.data.targets import make_targets
from facekd.engine.settings import Section


class Phase(Section):
    """A part of the run with crops of one size.

    Attributes:
        size: side of the crops in pixels; a multiple of 32.
        batch: crops a step.
        steps: how many steps it lasts, whatever ``training.minutes`` is; the last phase goes on to the end of the run.
    """

    size: int = Field(gt=0, multiple_of=STRIDES[-1])
    batch: int = Field(gt=0)
    steps: int = Field(gt=0)


def unreached(phases: Sequence[Phase], steps: int) -> str:
    """What a run of so many steps never sees, as a line to be shown; empty where it reaches its last phase."""
    begins = sum(phase.steps for phase in phases[:-1])
    if steps > begins:
        return ""
    return (
        f"{steps} steps end before the last phase, which begins at step {begins}: no crop has {phases[-1].size} px. "
        "Phases go by steps, with --minutes too: give them fewer steps (phases=[…])"
    )


class DetectionBatch(NamedTuple):
    """A batch of N crops with A anchors each, P of them positive in all, and K faces.

    Attributes:
        pictures: (N, S, S, 3) uint8 RGB.
        labels: (N, A) int8: 1 positive, 0 negative, -1 neither.
        positives: (P, 2) int64: picture and anchor of each positive anchor.
        boxes: (P, 4) float32 codes.
        landmarks: (P, 10) float32 codes.
        landmark_weights: (P,) float32, 0 where the landmarks are unknown.
        faces: (K, 4) float32 ``x1, y1, x2, y2`` in pixels of the crop, ignore regions left out.
        face_landmarks: (K, 5, 2) float32 in pixels of the crop, NaN where unknown.
        face_pictures: (K,) int64: the picture of each face.
    """

    pictures: Tensor
    labels: Tensor
    positives: Tensor
    boxes: Tensor
    landmarks: Tensor
    landmark_weights: Tensor
    faces: Tensor
    face_landmarks: Tensor
    face_pictures: Tensor


class BatchMaker:
    """Draws batches from collections of photographs.

    Args:
        collections: the photographs, collection by collection.
        weights: how often each collection is drawn from, relative to the others.
        phases: sizes, in order.
        crops: how crops are cut.
        changes: how their pixels are changed.
        seed: of everything that is drawn.
    """

    def __init__(
        self,
        collections: Sequence[Sequence[Photograph]],
        weights: Sequence[float],
        phases: Sequence[Phase],
        crops: CropSettings,
        changes: ChangeSettings,
        seed: int,
    ) -> None:
        self._collections = collections
        self._shares = np.asarray(weights, np.float64) / np.sum(weights)
        self._phases = phases
        self._crops = crops
        self._changes = changes
        self._seed = seed

    def phase(self, step: int) -> Phase:
        """The phase that a step belongs to."""
        for phase in self._phases:
            step -= phase.steps
            if step < 0:
                return phase
        return self._phases[-1]

    def batch(self, step: int) -> DetectionBatch:
        """The batch of a step."""
        rng = np.random.default_rng((self._seed, step))
        phase = self.phase(step)
        return collate([self._crop(phase.size, rng) for _ in range(phase.batch)])

    def _crop(self, size: int, rng: np.random.Generator) -> Crop:
        if rng.random() < self._crops.mosaic:
            crop = join_mosaic([draw_crop(self._photograph(rng), size // 2, self._crops, rng) for _ in range(4)])
        else:
            crop = draw_crop(self._photograph(rng), size, self._crops, rng)
        return change(crop, self._changes, rng)

    def _photograph(self, rng: np.random.Generator) -> Photograph:
        collection = self._collections[rng.choice(len(self._shares), p=self._shares)]
        return collection[int(rng.integers(len(collection)))]


def collate(crops: Sequence[Crop]) -> DetectionBatch:
    """Crops of one size as a batch with the targets of their anchors."""
    targets = [
        make_targets(crop.pixels.shape[0], crop.boxes, crop.landmarks, crop.ignore, crop.landmark_weights)
        for crop in crops
    ]
    picture_of = np.repeat(np.arange(len(crops)), [len(target.positives) for target in targets])
    known = [~crop.ignore for crop in crops]
    face_of = np.repeat(np.arange(len(crops)), [int(here.sum()) for here in known])
    positives = np.stack([picture_of, np.concatenate([target.positives for target in targets])], axis=1)
    return DetectionBatch(
        torch.from_numpy(np.stack([crop.pixels for crop in crops])),
        torch.from_numpy(np.stack([target.labels for target in targets])),
        torch.from_numpy(positives.astype(np.int64)),
        torch.from_numpy(np.concatenate([target.boxes for target in targets])),
        torch.from_numpy(np.concatenate([target.landmarks for target in targets])),
        torch.from_numpy(np.concatenate([target.landmark_weights for target in targets])),
        torch.from_numpy(np.concatenate([crop.boxes[here] for crop, here in zip(crops, known, strict=True)])),
        torch.from_numpy(np.concatenate([crop.landmarks[here] for crop, here in zip(crops, known, strict=True)])),
        torch.from_numpy(face_of),
    )
