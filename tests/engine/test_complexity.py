"""The counter, against numbers worked out by hand."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from facekd.engine.complexity import Complexity, measure_complexity  # noqa: E402


def test_each_kind_of_layer() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),  # 4 x 4 x 8 outputs of 27 products
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # 4 x 4 x 8 outputs of 9 products
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    found = measure_complexity(network, (3, 8, 8))
    assert found == Complexity(216 + 16 + 80 + 1290, 128 * 27 + 128 * 9 + 1280)


def test_a_layer_used_twice_counts_twice_and_keeps_its_parameters_once() -> None:
    layer = nn.Linear(4, 4, bias=False)
    assert measure_complexity(nn.Sequential(layer, nn.ReLU(), layer), (4,)) == Complexity(16, 32)


def test_counting_changes_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    network[0].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measure_complexity(network, (3, 4, 4))
    assert network.training
    assert not network[0].training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
