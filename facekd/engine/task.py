"""What a stage hands to the engine: one network to learn, its batches, its loss terms and its judgement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


class Task(Protocol):
    """One thing to train.

    ``batch`` must be a pure function of the step (and of the task's own seed): that alone makes a resumed run
    repeat the losses of one that was never interrupted, however many threads prepare batches. A task that can say which
    data it is on is a ``KnowsItsData`` too, one that can be trained by several ranks a ``DividesBatches``, one that has
    a last thing to do a ``Completes``.

    Attributes:
        module: everything that is optimised and checkpointed: the student, and adapters, heads and class centres.
        student: the part that is averaged, validated and exported.
    """

    module: nn.Module
    student: nn.Module

    def batch(self, step: int) -> Any:
        """The batch of a step, as tensors on the CPU; runs in a background thread."""

    def losses(self, batch: Any, step: int, progress: float) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is minimised. ``progress`` runs from 0 to 1 over the schedule."""

    def validate(self, student: nn.Module) -> dict[str, float]:
        """Figures on the validation split; ``"score"`` decides which weights are kept (higher is better)."""

    def export(self, student: nn.Module, path: Path) -> None:
        """Write the student as ONNX, BatchNorm unfolded."""


@runtime_checkable
class KnowsItsData(Protocol):
    """A task whose checkpoints say which data they were trained on, so that none is resumed on other data."""

    def data_digests(self) -> Mapping[str, str]:
        """Digests of what is trained on and what it is judged by, as ``training`` and ``validation``.

        Taken at every checkpoint: of names, numbers, labels and boxes, not of pixels.
        """


@runtime_checkable
class Completes(Protocol):
    """A task that has something to do to its best weights, once, after the last step."""

    def complete(self, path: Path) -> str:
        """Replace the exported best weights; returns what was done, for the log, or "" if nothing was."""


@runtime_checkable
class DividesBatches(Protocol):
    """A task that several ranks of ``torch.distributed`` may train together.

    Attributes:
        divides_batches: whether it does; the ranks then draw different batches, and their gradients are averaged.
    """

    divides_batches: bool
