"""Where theory says that a method is content, it is: at its teacher's answer, or at what stands for it, the loss of
every method of a recipe is least, and zero where it should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facekd.distill.methods import METHODS, build_loss

GENERATOR = torch.Generator().manual_seed(20261122)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A student for which nothing is left to learn.

    Attributes:
        student, teacher: what the taps give.
        options: of the method.
        extras: further tensors.
        zero: whether the loss is then 0, not merely least.
    """

    student: Any
    teacher: Any
    options: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)
    zero: bool = True


SCORES, EMBEDDINGS, MAP, OTHER = draw(4, 3), draw(4, 5), draw(2, 3, 6, 6), draw(2, 3, 3, 3)
LABELS = torch.tensor([0, 2, 1, 1])
MIXED = 0.5 * F.softmax(SCORES, dim=1) + 0.5 * F.one_hot(LABELS, 3)
APART = torch.eye(4, dtype=torch.float64) - 0.25  # four directions as far from each other as can be
PEOPLE = {"labels": torch.arange(4)}
PROBABILITIES = torch.tensor([[0.9, 0.02, 0.3, 0.7]], dtype=torch.float64)
CODES = draw(1, 4, 4), draw(1, 4, 10)
FACE = {"boxes": torch.tensor([[4.0, 4.0, 20.0, 20.0]]), "photographs": torch.tensor([1])}

CASES = {
    "kl": Case(SCORES + 7.0, SCORES),
    "soft-hard": Case(MIXED.log(), SCORES, {"alpha": 0.5, "temperature": 1.0}, {"labels": LABELS}, zero=False),
    "logit-mse": Case(SCORES, SCORES),
    "detection": Case(
        (torch.logit(PROBABILITIES), *CODES),
        (PROBABILITIES, *CODES),
        {"giou_weight": 1.0},
        {"anchors": torch.tensor([[8.0, 8.0, 16.0, 16.0]], dtype=torch.float64).expand(4, 4)},
    ),
    "mimic": Case(5 * MAP, MAP, {"normalise": "channel"}),
    "attention": Case(-3 * MAP, MAP),
    "channel-pyramid": Case((MAP, OTHER), (MAP, OTHER)),
    "gram": Case(MAP.flip(3), MAP),
    "fsp": Case((MAP, MAP.flip(1)), (MAP, MAP.flip(1))),
    "cwd": Case(MAP + draw(2, 3, 1, 1), MAP),
    "mgd": Case(MAP.abs(), MAP.abs(), {"masked_share": 0.0}),
    "pkd": Case((2 * MAP + 1, OTHER), (MAP, OTHER)),
    "local": Case(4 * MAP, MAP, {"stride": 4.0}, FACE),
    "similarity": Case(2 * EMBEDDINGS.flip(1), EMBEDDINGS),
    "rkd-distance": Case(2 * EMBEDDINGS.flip(1) + 1, EMBEDDINGS),
    "rkd-angle": Case(2 * EMBEDDINGS.flip(1) + 1, EMBEDDINGS),
    "contrastive": Case(2 * APART, APART, {"temperature": 0.5}, zero=False),
    "cosine": Case(3 * EMBEDDINGS, EMBEDDINGS),
    "angular": Case(3 * EMBEDDINGS, EMBEDDINGS),
    **{
        name: Case(3 * APART, APART, {"scale": 8.0}, PEOPLE, zero=False)
        for name in ("centres", "margin-distillation", "adadistill")
    },
    "ekd": Case(3 * EMBEDDINGS, EMBEDDINGS, {}, {"labels": LABELS}),
}


def test_every_method_has_a_case() -> None:
    assert set(CASES) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_least_where_nothing_is_left_to_learn(name: str) -> None:
    case = CASES[name]
    loss = build_loss(name, case.options, {"channels": 3, "centres": APART}).double().eval()
    if name == "mgd":  # a generator that gives back what it is given
        with torch.no_grad():
            for layer in (loss.generation[0], loss.generation[2]):
                torch.nn.init.dirac_(layer.weight)
                layer.bias.zero_()
    students = case.student if isinstance(case.student, tuple) else (case.student,)

    def value(parts: tuple[Tensor, ...]) -> float:
        return float(loss(parts if isinstance(case.student, tuple) else parts[0], case.teacher, **case.extras))

    with torch.no_grad():
        least = value(students)
        assert least == pytest.approx(0.0, abs=1e-7) if case.zero else least > 0
        rises = []
        for _ in range(6):
            rises.append(value(tuple(part + 0.03 * draw(*part.shape) for part in students)) - least)
    assert min(rises) > -1e-9
    assert max(rises) > 1e-9  # and it does look at the student
