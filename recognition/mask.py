"""The mask head: does an aligned crop show no mask, a mask, or one that is worn incorrectly."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from facekd.errors import ModelError
from facekd.runtime import open_model
from facekd.zoo import ModelRecord

MaskStatus = Literal["none", "mask", "incorrect"]

MASK_STATUSES: tuple[MaskStatus, ...] = ("none", "mask", "incorrect")
"""The order of the model's logits. ``incorrect``: nose out, on the chin, or over the eyes."""

_RUN_CROPS = 32


@dataclass(frozen=True, slots=True)
class MaskResult:
    """What is on a face.

    Attributes:
        status: ``none``, ``mask`` or ``incorrect``.
        score: probability of that status, 1/3..1.
    """

    status: MaskStatus
    score: float

    def to_dict(self) -> dict[str, object]:
        """``{"status", "score"}``, as the command line prints it."""
        return {"status": self.status, "score": round(self.score, 4)}


class MaskHead:
    """Tells the mask status with a model of the zoo.

    Args:
        model: task, name, path or record of the model.
        threads: processor threads; 0 is automatic.

    Raises:
        ConfigError: there is no such mask head.
        ModelError: the model is missing or damaged.
    """

    def __init__(self, model: str | os.PathLike[str] | ModelRecord = "mask", threads: int = 0) -> None:
        self.record, self._session = open_model(model, "mask", ("logits",), threads)
        calibration = self.record.calibration
        self._temperature = (calibration.temperature if calibration else None) or 1.0

    def probabilities(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Probabilities (N, 3) of none, mask and incorrect for aligned crops, RGB uint8 (N, 112, 112, 3).

        Raises:
            ValueError: wrong type or shape.
            ModelError: the model fails, or gives something else than three finite logits a crop.
        """
        if len(crops) == 0:
            return np.zeros((0, len(MASK_STATUSES)))
        name, apply = self._session.inputs[0], self.record.preprocessing.apply
        starts = range(0, len(crops), _RUN_CROPS)
        parts = [self._session.run({name: apply(crops[start : start + _RUN_CROPS])})[0] for start in starts]
        logits = np.concatenate(parts).astype(np.float64) / self._temperature
        if logits.shape != (len(crops), len(MASK_STATUSES)) or not np.isfinite(logits).all():
            raise ModelError(
                f"the mask head {self.record.name!r} must give {len(MASK_STATUSES)} finite logits for each of "
                f"{len(crops)} crops, got the shape {logits.shape}; replace the model"
            )
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def predict(self, crops: npt.NDArray[np.uint8]) -> list[MaskResult]:
        """The likeliest status of each aligned crop, RGB uint8 (N, 112, 112, 3)."""
        return [MaskResult(MASK_STATUSES[int(row.argmax())], float(row.max())) for row in self.probabilities(crops)]
