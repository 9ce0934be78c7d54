"""Taps: what named layers give, and clear refusals of names and parts that do not exist."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from facekd.distill.taps import watch
from facekd.errors import ConfigError


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        pooled = self.body(x).mean((2, 3))
        return {"scores": self.head(pooled), "pair": (pooled, self.head(2 * pooled))}


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_layers_outputs_parts_and_repeated_calls(pictures: Tensor) -> None:
    network = Network()
    with watch(network, ["body.1", "output:scores", "head:0", "head:1"]) as seen:
        result = network(pictures)
    assert seen["body.1"].shape == (2, 4, 6, 6)
    assert seen["output:scores"] is result["scores"]
    assert torch.equal(seen["head:0"], result["scores"])
    assert torch.equal(seen["head:1"], result["pair"][1])
    assert not network._forward_hooks
    assert not network.body[1]._forward_hooks


def test_hooks_are_gone_also_after_an_error(pictures: Tensor) -> None:
    network = Network()
    with pytest.raises(RuntimeError), watch(network, ["body.0"]):
        network(pictures[:, :2])
    assert not network.body[0]._forward_hooks


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        ("bdy.1", "close names: body.1"),
        ("head", "2 parts; pick one, as head:0"),
        ("output", "2 parts; pick one, as output:pair"),
        ("output:boxes", r"no part 'boxes'; it has \['pair', 'scores'\]"),
        ("head:7", "no part '7'"),
        ("output:pair", "2 parts"),
    ],
)
def test_misuse_is_named(pictures: Tensor, tap: str, message: str) -> None:
    def look() -> None:
        network = Network()
        with watch(network, [tap], "student") as seen:
            network(pictures)
        seen[tap]

    with pytest.raises(ConfigError, match=message):
        look()


def test_a_layer_that_did_not_run_is_named() -> None:
    with watch(Network(), ["body.1"], "student") as seen:
        pass
    with pytest.raises(ConfigError, match="did not run"):
        seen["body.1"]


def test_features_overwritten_in_place_are_refused(pictures: Tensor) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    with watch(network, ["0", "1"], "student") as seen:
        network(pictures)
    with pytest.raises(ConfigError, match="overwritten in place"):
        seen["0"]
    assert (seen["1"] >= 0).all()


def test_parts_overwritten_in_place_are_refused(pictures: Tensor) -> None:
    class Pyramid(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [2 * x, 3 * x]

    class Careless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pyramid = Pyramid()

        def forward(self, x: Tensor) -> Tensor:
            fine, coarse = self.pyramid(x)
            return fine.relu_() + coarse

    network = Careless()
    with watch(network, ["pyramid:0", "pyramid:1"], "student") as seen:
        network(pictures)
    with pytest.raises(ConfigError, match="'pyramid:0' was overwritten in place"):
        seen["pyramid:0"]
    assert torch.equal(seen["pyramid:1"], 3 * pictures)
