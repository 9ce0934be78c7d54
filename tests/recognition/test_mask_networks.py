"""The mask head's networks: parameters and multiply-adds of the papers, three logits, and an export that runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facekd.engine.complexity import measure_complexity
from facekd.engine.export import export_onnx
from facekd.engine.settings import find_recipe, read_toml
from facekd.recognition.mask_networks import MASK_NETWORKS, MobileNetV3SmallMask, ResNetMask, ShuffleNetV2Mask
from facekd.runtime import open_session


@pytest.mark.parametrize(
    ("network", "parameters", "multiply_adds"),
    [  # published for 1000 classes and 224x224 pixels
        (ResNetMask(classes=1000), 11_689_512, 1.814e9),
        (MobileNetV3SmallMask(hidden=1024, classes=1000), 2_542_856, 56.5e6),
        (ShuffleNetV2Mask((24, 48, 96, 192, 1024), classes=1000), 1_366_792, 41e6),
    ],
)
def test_parameters_and_multiply_adds_are_the_papers(network, parameters: int, multiply_adds: float) -> None:
    cost = measure_complexity(network, (3, 224, 224))
    assert cost.parameters == parameters
    assert cost.multiply_adds == pytest.approx(multiply_adds, rel=0.02)


@pytest.mark.parametrize("name", MASK_NETWORKS)
def test_three_logits_and_the_export_agrees(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    options = {"resnet": {"widths": (16, 32, 64, 128)}}.get(name, {})
    network = MASK_NETWORKS[name](**options).train()
    crops = torch.randn(4, 3, 112, 112)
    network(crops).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.eval()
    path = tmp_path / "network.onnx"
    axes = {"face": {0: "faces"}, "logits": {0: "faces"}}
    export_onnx(network, crops[:1], path, inputs=["face"], outputs=["logits"], dynamic_axes=axes)
    (found,) = open_session(path.read_bytes(), threads=1).run({"face": crops.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, network(crops).numpy(), atol=2e-4, rtol=1e-3)
    assert found.shape == (4, 3)


@pytest.mark.parametrize("name", ["mask-distilled", "compare-mask"])
def test_a_recipes_student_is_at_least_five_times_smaller_and_cheaper_than_its_teacher(name: str) -> None:
    table = read_toml(find_recipe(name))
    settings = read_toml(find_recipe(table.get("recipe", name)))["network"]  # of a comparison: the recipe's student
    student = measure_complexity(MASK_NETWORKS["mask_network"](**settings))
    taught_by = table.get("distill", table)["teachers"]["large"]["architecture"]
    teacher = measure_complexity(MASK_NETWORKS[taught_by]())
    assert 5 * student.parameters < teacher.parameters
    assert 5 * student.multiply_adds < teacher.multiply_adds
