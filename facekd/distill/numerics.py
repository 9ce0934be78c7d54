"""What every distillation loss shares: float32 inside under autocast, shape checks, weighted reduction.

A bf16 number has eight bits of mantissa, so a difference of two nearly equal softmax values or cosines is mostly
rounding. Every loss of this package therefore leaves autocast, raises half-precision inputs to float32, and keeps
float64 as it is (the tests compute in float64).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_HALF = (torch.float16, torch.bfloat16)


def _raise_precision(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALF else value
    if isinstance(value, (list, tuple)):
        return type(value)(_raise_precision(item) for item in value)
    return value


def float32_inside(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make a loss compute in at least float32, also where autocast is on.

    float16 and bfloat16 arguments (also inside lists and tuples) are raised to float32; float32, float64 and integers
    stay.
    """

    @functools.wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        with torch.autocast(device_type=device, enabled=False):
            raised: Any = [_raise_precision(value) for value in args]
            named: Any = {key: _raise_precision(value) for key, value in kwargs.items()}
            return function(*raised, **named)

    return wrapper


def check_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raise ValueError unless both tensors have one shape (broadcasting would hide the mistake).

    Args:
        student: any tensor.
        teacher: any tensor.
        what: what is compared, for the message.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"{what}: the student gives {tuple(student.shape)}, the teacher {tuple(teacher.shape)}; "
            "put an adapter between them or tap other layers"
        )


def check_batch(student: Tensor, teacher: Tensor, what: str, dimensions: int = 2) -> None:
    """Raise ValueError unless both tensors have `dimensions` axes and the same first axis (the photographs)."""
    if student.ndim != dimensions or teacher.ndim != dimensions or len(student) != len(teacher):
        raise ValueError(
            f"{what}: wanted two tensors of {dimensions} axes with the same photographs along the first, "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def weighted_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of per-sample values, or their weighted mean.

    Args:
        values: (N, …) a value a sample; further axes are averaged first.
        weights: (N,) weights >= 0, or None for equal ones. They are constants: no gradient flows into them.

    Returns:
        Scalar sum(w * v) / sum(w). Zero (with a graph) where every weight is zero.

    Raises:
        ValueError: the weights do not fit the samples.
    """
    per_sample = values.flatten(1).mean(dim=1) if values.ndim > 1 else values
    if weights is None:
        return per_sample.mean()
    if weights.shape != per_sample.shape:
        raise ValueError(
            f"per-sample weights {tuple(weights.shape)} do not fit {len(per_sample)} samples; give one a sample"
        )
    constant = weights.detach().to(per_sample.dtype)
    return (constant * per_sample).sum() / constant.sum().clamp_min(torch.finfo(per_sample.dtype).tiny)
