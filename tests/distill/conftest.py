"""The yardstick of all losses: value and gradient against a slow reference in NumPy float64, and again under bf16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

STEP = 1e-6


def _tensor(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple):
        return tuple(_tensor(part, dtype) for part in value)
    if isinstance(value, np.ndarray):
        return torch.tensor(value, dtype=dtype) if value.dtype == np.float64 else torch.tensor(value)
    return value


def _rounded(value: Any) -> Any:
    """What is left of an array after bfloat16."""
    if isinstance(value, tuple):
        return tuple(_rounded(part) for part in value)
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        return torch.tensor(value).bfloat16().double().numpy()
    return value


def _leaves(value: Any) -> list[torch.Tensor]:
    if isinstance(value, tuple):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value] if isinstance(value, torch.Tensor) and value.is_floating_point() else []


def _numeric_gradient(reference: Callable[..., float], student: Any, rest: tuple[Any, ...]) -> list[np.ndarray]:
    arrays = list(student) if isinstance(student, tuple) else [student]
    gradients = []
    for array in arrays:
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + STEP
            above = reference(student, *rest)
            array[index] = kept - STEP
            below = reference(student, *rest)
            array[index] = kept
            gradient[index] = (above - below) / (2 * STEP)
        gradients.append(gradient)
    return gradients


@pytest.fixture
def agrees() -> Callable[..., float]:
    """`agrees(loss, reference, student, *rest)`: the student's gradient and the value, three ways; returns the value.

    Checks that the value and the gradient agree with the reference (central differences) in float64; that no gradient
    reaches the other arguments; and that under bf16 autocast, with bf16 arguments, the loss is the float32 one.
    """

    def check(loss: Callable[..., torch.Tensor], reference: Callable[..., float], student: Any, *rest: Any) -> float:
        inputs = _tensor(student, torch.float64)
        others = [_tensor(value, torch.float64) for value in rest]
        for leaf in _leaves(inputs) + _leaves(tuple(others)):
            leaf.requires_grad_()
        value = loss(inputs, *others)
        assert value.ndim == 0
        wanted = reference(student, *rest)
        assert value.item() == pytest.approx(wanted, rel=1e-7, abs=1e-10)

        value.backward()
        for leaf, gradient in zip(_leaves(inputs), _numeric_gradient(reference, student, rest), strict=True):
            assert leaf.grad is not None
            scale = max(1e-3, float(np.abs(gradient).max()))
            np.testing.assert_allclose(leaf.grad.numpy(), gradient, atol=2e-5 * scale, rtol=1e-4)
        assert all(leaf.grad is None or not leaf.grad.any() for leaf in _leaves(tuple(others))), (
            "teacher got a gradient"
        )

        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = _tensor(student, torch.bfloat16)
            for leaf in _leaves(half):
                leaf.requires_grad_()
            low = loss(half, *(_tensor(item, torch.bfloat16) for item in rest))
        assert low.dtype == torch.float32
        rounded = reference(_rounded(student), *(_rounded(item) for item in rest))
        assert low.item() == pytest.approx(rounded, rel=2e-4, abs=2e-5)
        low.backward()
        assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in _leaves(half))
        return float(wanted)

    return check


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    """`draw(*shape)`: normal float64 numbers, a new stretch of one fixed sequence at each call."""
    generator = np.random.default_rng(20261122)
    return lambda *shape: generator.normal(size=shape)


@pytest.fixture(scope="session")
def yunet_bytes() -> bytes:
    """A graph with the inputs and outputs of YuNet's file, fixed sides included: 640x640, one photograph.

    A cell of stride 16 whose *blue* is bright is a face: class and object score 0.9 at 255. Its box has its centre at
    the cell's and sides of four cells; its points lie in the cell. Strides 8 and 32 find nothing.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, initial, outputs = [], [], []
    points = [0.1, 0.2, 0.9, 0.2, 0.5, 0.5, 0.2, 0.8, 0.8, 0.8]
    for stride in (8, 16, 32):
        nodes.append(
            helper.make_node(
                "AveragePool", ["input"], [f"mean_{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        for kind, bias in (("cls", [-8.0]), ("obj", [-8.0]), ("bbox", [0.5, 0.5, *[np.log(4.0)] * 2]), ("kps", points)):
            name = f"{kind}_{stride}"
            weight = np.zeros((len(bias), 3, 1, 1), np.float32)
            if kind in ("cls", "obj") and stride == 16:
                weight[0, 0] = (8.0 + np.log(9.0)) / 255  # the first channel: the file takes BGR; logit of 0.9 at 255
            initial += [
                numpy_helper.from_array(weight, f"weight_{name}"),
                numpy_helper.from_array(np.array(bias, np.float32), f"bias_{name}"),
                numpy_helper.from_array(np.array([1, -1, len(bias)], np.int64), f"shape_{name}"),
            ]
            last = "scored" if kind in ("cls", "obj") else "mapped"
            nodes.append(
                helper.make_node("Conv", [f"mean_{stride}", f"weight_{name}", f"bias_{name}"], [f"mapped_{name}"])
            )
            if last == "scored":
                nodes.append(helper.make_node("Sigmoid", [f"mapped_{name}"], [f"scored_{name}"]))
            nodes.append(helper.make_node("Transpose", [f"{last}_{name}"], [f"moved_{name}"], perm=[0, 2, 3, 1]))
            nodes.append(helper.make_node("Reshape", [f"moved_{name}", f"shape_{name}"], [name]))
            cells = (640 // stride) ** 2
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, cells, len(bias)]))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 640, 640])
    graph = helper.make_graph(nodes, "yunet", [given], outputs, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
