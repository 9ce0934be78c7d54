"""The only place that makes ONNX Runtime sessions, and the only importer of onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from facekd.errors import ConfigError, ModelError
from facekd.zoo import ModelRecord, Task, find_model, read_model

MOST_THREADS = max(256, 4 * (os.cpu_count() or 1))
"""More in one pool only stand in each other's way, and starting a hundred thousand hangs the machine."""

_default_threads = 0


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session runs.

    Attributes:
        threads: processor threads inside one operator; 0 takes the default of :func:`set_default_threads`, and where
            that is 0 too, ONNX Runtime's own choice (one for each physical core). At most ``MOST_THREADS``.
    """

    threads: int = 0

    def __post_init__(self) -> None:
        whole = isinstance(self.threads, (int, np.integer))
        if not whole or not 0 <= self.threads <= MOST_THREADS:
            raise ConfigError(
                f"threads must be a whole number from 0 (automatic) to {MOST_THREADS}, got {self.threads!r}; this "
                f"machine has {os.cpu_count()} processors"
            )


def set_default_threads(threads: int) -> None:
    """Threads of every session opened from now on without a number of its own, and of OpenCV; 0 means automatic.

    Raises:
        ConfigError: see :class:`SessionOptions`.
    """
    global _default_threads
    _default_threads = SessionOptions(threads).threads
    cv2.setNumThreads(threads if threads else -1)


def default_threads() -> int:
    """What :func:`set_default_threads` was told, for libraries that take a number of threads of their own."""
    return _default_threads


class Session:
    """A network ready to run: a thin wrapper over an ONNX Runtime session on the CPU.

    Attributes:
        name: what error messages call the model.
        inputs: names of the inputs, in the graph's order.
        outputs: names of the outputs, in the graph's order.
        output_shapes: for each output its sides; None where the graph leaves one open.
    """

    def __init__(self, session: onnxruntime.InferenceSession, name: str) -> None:
        self._session = session
        self.name = name
        self.inputs: tuple[str, ...] = tuple(item.name for item in session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(item.name for item in session.get_outputs())
        self.output_shapes: tuple[tuple[int | None, ...], ...] = tuple(
            tuple(side if isinstance(side, int) else None for side in item.shape) for item in session.get_outputs()
        )

    def run(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> list[npt.NDArray[np.float32]]:
        """Run the network once.

        Args:
            feeds: an array for each input.

        Returns:
            The outputs in the order of ``outputs``.

        Raises:
            ModelError: the model cannot take these inputs, or fails while it runs.
        """
        try:
            return list(self._session.run(None, dict(feeds)))
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            shapes = {name: array.shape for name, array in feeds.items()}
            raise ModelError(f"the model {self.name!r} failed on inputs of shape {shapes}: {error}") from error


def open_session(model: ModelRecord | bytes, threads: int = 0) -> Session:
    """Load a model, verified against its record, or from bytes that the caller vouches for.

    Args:
        model: a record of the zoo, or the content of an .onnx file.
        threads: see :class:`SessionOptions`.

    Raises:
        ModelError: the weights are missing, damaged, or not an ONNX model.
        ConfigError: a number of threads that :class:`SessionOptions` refuses.
    """
    chosen = SessionOptions(threads)
    content, name = (read_model(model), model.name) if isinstance(model, ModelRecord) else (model, "model from memory")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = chosen.threads or _default_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Photographs come in many sizes: a memory plan kept for every shape ever seen would only grow.
    options.enable_mem_pattern = False
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise ModelError(
            f"ONNX Runtime cannot load the model {name!r}: {error}; replace it or reinstall facekd"
        ) from error
    return Session(session, name)


def open_model(
    model: str | os.PathLike[str] | ModelRecord, task: Task, outputs: tuple[str, ...], threads: int = 0
) -> tuple[ModelRecord, Session]:
    """Find, verify and load the model for a task, and check that its graph has the outputs that the task needs.

    Args:
        model: a record, or what :func:`facekd.zoo.find_model` takes.
        task: the task that the model must be for.
        outputs: names that the graph's outputs must have, in any order.
        threads: see :class:`SessionOptions`.

    Raises:
        ConfigError: no such model, or one for another task.
        ModelError: see :func:`open_session`; or the graph has other outputs or not one input.
    """
    record = model if isinstance(model, ModelRecord) else find_model(model)
    if record.task != task:
        raise ConfigError(f"the model {record.name!r} is for the task {record.task!r}, a model for {task!r} is needed")
    session = open_session(record, threads)
    if set(session.outputs) != set(outputs) or len(session.inputs) != 1:
        raise ModelError(
            f"the model {record.name!r} maps {list(session.inputs)} to {list(session.outputs)}; "
            f"a {task} has one input and the outputs {list(outputs)}: export it again"
        )
    return record, session
