"""The embedder: aligned crops in, unit vectors out; the cosine of two vectors says how alike two faces are."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from facekd.errors import ModelError
from facekd.runtime import open_model
from facekd.zoo import ModelRecord

# Crops a run: enough to keep the processor busy, few enough to stay in its caches.
_RUN_CROPS = 32


class Embedder:
    """Computes embeddings with a model of the zoo.

    Args:
        model: task, name, path or record of the model.
        threads: processor threads; 0 is automatic.

    Attributes:
        record: the model's record.
        dimension: length of an embedding.

    Raises:
        ConfigError: there is no such embedder.
        ModelError: the model is missing or damaged.
    """

    def __init__(self, model: str | os.PathLike[str] | ModelRecord = "embedder", threads: int = 0) -> None:
        self.record, self._session = open_model(model, "embedder", ("embedding",), threads)
        side = self._session.output_shapes[0][-1]
        if side is None:
            preprocessing = self.record.preprocessing
            side = self._run(np.zeros((1, preprocessing.height, preprocessing.width, 3), np.uint8)).shape[1]
        self.dimension: int = side

    @property
    def contract(self) -> str:
        """Digest of weights and preprocessing: embeddings are comparable only under equal contracts."""
        return self.record.contract

    def embed(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embeddings of aligned crops.

        Args:
            crops: RGB uint8 (N, 112, 112, 3) of :func:`facekd.recognition.align.align_face`; N may be 0.

        Returns:
            (N, dimension) float32, each row of length 1.

        Raises:
            ValueError: wrong type or shape.
            ModelError: the model fails, or gives vectors without a direction.
        """
        if len(crops) == 0:
            return np.zeros((0, self.dimension), np.float32)
        parts = [self._run(crops[start : start + _RUN_CROPS]) for start in range(0, len(crops), _RUN_CROPS)]
        raw = np.concatenate(parts)
        lengths = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise ModelError(f"the embedder {self.record.name!r} gave a vector without a direction; replace the model")
        return (raw / lengths).astype(np.float32)

    def _run(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self._session.run({self._session.inputs[0]: self.record.preprocessing.apply(crops)})[0]
