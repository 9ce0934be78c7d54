"""Schedules of weights and temperatures, and weights of photographs."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import BaseModel, ValidationError

from facekd.distill.schedules import Schedule, Scheduled, constant
from facekd.distill.weighting import confidence_weights, correctness_weights, difficulty_weights


class Holder(BaseModel):
    weight: Scheduled = constant(2.0)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ({"start": 8.0, "end": 1.0}, {0.0: 8.0, 0.5: 4.5, 1.0: 1.0}),
        ({"start": 1.0, "end": 0.0, "shape": "cosine"}, {0.0: 1.0, 0.25: (1 + math.sqrt(0.5)) / 2, 0.5: 0.5, 1.0: 0.0}),
        ({"start": 0.0, "end": 1.0, "shape": "step", "until": 0.3}, {0.0: 0.0, 0.29: 0.0, 0.3: 1.0, 1.0: 1.0}),
        ({"start": 0.0, "end": 4.0, "begin": 0.5, "until": 0.75}, {0.4: 0.0, 0.625: 2.0, 0.9: 4.0}),
        (0.5, {0.0: 0.5, 0.7: 0.5, 1.0: 0.5}),
    ],
)
def test_values_along_the_way(schedule, values) -> None:
    found = Holder(weight=schedule).weight
    for progress, value in values.items():
        assert found.at(progress) == pytest.approx(value)


def test_defaults_and_faults() -> None:
    assert Holder().weight.at(0.3) == 2.0
    with pytest.raises(ValidationError, match="must come before"):
        Schedule(start=0, end=1, begin=0.5, until=0.5)
    with pytest.raises(ValidationError, match="extra"):
        Holder(weight={"start": 0, "end": 1, "shpe": "cosine"})
    with pytest.raises(ValidationError):
        Holder(weight=True)


def test_confidence_is_one_when_certain_and_zero_when_undecided() -> None:
    logits = torch.tensor([[100.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, -100.0]])
    expected = torch.tensor([1.0, 0.0, 1 - math.log(2) / math.log(3)])
    torch.testing.assert_close(confidence_weights(logits), expected)


def test_correctness_and_difficulty_read_the_label_also_as_shares() -> None:
    logits, labels = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])), torch.tensor([0, 2])
    torch.testing.assert_close(correctness_weights(logits, labels), torch.tensor([0.7, 0.1]))
    torch.testing.assert_close(difficulty_weights(logits, labels, focus=2.0), torch.tensor([0.09, 0.81]))
    shares = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(correctness_weights(logits, shares), torch.tensor([0.45, 0.1]))


def test_weights_are_constants_and_float32_under_autocast() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = confidence_weights(logits.bfloat16())
    assert weights.dtype == torch.float32
    assert not difficulty_weights(logits, torch.tensor([0, 1, 2, 0])).requires_grad
