"""How a weight or a temperature runs over training: constant, linear, cosine, or a step; windows make stages."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from facekd.engine.settings import Fraction, Section


class Schedule(Section):
    """A number that depends on the progress of training.

    Before `begin` it is `start`, after `until` it is `end`; between them it runs linearly, along half a cosine, or
    stays at `start` and jumps (`step`). Adaptive temperature: `{start = 8, end = 1}`. Cosine decay of a weight:
    `{start = 1, end = 0, shape = "cosine"}`. A stage that begins at 30 %: `{start = 0, end = 1, shape = "step", until =
    0.3}`; one that ends there: `{start = 1, end = 0, shape = "step", until = 0.3}`.

    Attributes:
        start: value at the beginning.
        end: value at the end.
        shape: way from one to the other.
        begin: share of the schedule at which the change begins.
        until: share at which it is complete.
    """

    start: float
    end: float
    shape: Literal["linear", "cosine", "step"] = "linear"
    begin: Fraction = 0.0
    until: Fraction = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Schedule:
        if self.begin >= self.until:
            raise ValueError(f"begin ({self.begin}) must come before until ({self.until})")
        return self

    def at(self, progress: float) -> float:
        """The value at a progress in 0..1."""
        share = min(max((progress - self.begin) / (self.until - self.begin), 0.0), 1.0)
        if self.shape == "step":
            share = 1.0 if share >= 1.0 else 0.0
        elif self.shape == "cosine":
            share = 0.5 * (1.0 - math.cos(math.pi * share))
        return self.start + (self.end - self.start) * share


def _from_number(value: Any) -> Any:
    return {"start": value, "end": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Scheduled = Annotated[Schedule, BeforeValidator(_from_number), Field(validate_default=True)]
"""A field of a recipe that takes a number, or a table with the keys of `Schedule`."""


def constant(value: float) -> Schedule:
    """A schedule that never changes."""
    return Schedule(start=value, end=value)
