"""Embedders in ONNX files of others, given the input, the output and the preprocessing that ours have.

What a network wants of its pixels (colour order, mean, scale) becomes a few nodes in front of its graph, so that an
imported teacher is like any model of facekd: in records, as an online teacher of a recipe, in caches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from facekd.errors import ModelError
from facekd.recognition.preprocessing import ALIGNED_CROP
from facekd.runtime import open_session
from facekd.zoo import Preprocessing

INPUT, OUTPUT = "face", "embedding"
ARITHMETIC = frozenset({"Sub", "Add", "Mul", "Div"})
LENGTHS = range(32, 4097)  # of an embedding; what is longer is a feature map


def read_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        ModelError: it is missing or no ONNX model.
    """
    try:
        return onnx.load(str(path))
    except Exception as error:  # the protobuf parser raises types of its own
        raise ModelError(f"cannot read {path} as ONNX: {error}") from error


def scales_its_own_pixels(model: onnx.ModelProto) -> bool:
    """Whether the first thing that the graph does with its input is arithmetic with a constant.

    Such networks (MXNet's exports, SFace) want pixels in 0..255; all others want them centred, in -1..1.
    """
    constants = _constants(model)
    name = _input(model).name
    seen = {name}
    for node in model.graph.node:  # in the order of computation
        if seen & set(node.input):
            if node.op_type in ARITHMETIC:
                return any(other in constants for other in node.input)
            if node.op_type not in ("Identity", "Cast"):
                return False
            seen |= set(node.output)
    return False


def conform(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """The same network with the input ``face``, the only output ``embedding``, any number of crops, and our pixels.

    Args:
        model: one input (N, 3, 112, 112) and an output (N, D); changed in place.
        preprocessing: what the network wants.

    Raises:
        ModelError: the graph has other inputs or no output of that form, or takes one crop at a time.
    """
    graph = model.graph
    constants = _constants(model)
    source = _input(model)
    sides = [side.dim_value for side in source.type.tensor_type.shape.dim]
    if len(sides) != 4 or any(got not in (0, want) for got, want in zip(sides[1:], (3, 112, 112), strict=True)):
        raise ModelError(f"the graph's input {source.name!r} has the sides {sides}; wanted (N, 3, 112, 112)")
    kept = [value for value in graph.input if value.name not in constants]
    output = embedding_output(model)
    _rename(model, {source.name: "facekd.input", output: OUTPUT})
    front, added = _front(preprocessing)
    del graph.input[:], graph.output[:], graph.value_info[:]
    assert len(kept) == 1  # _input has seen to it
    graph.input.append(helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, ["faces", 3, 112, 112]))
    graph.output.append(helper.make_empty_tensor_value_info(OUTPUT))
    nodes = [*front, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added)
    length = _run(model, INPUT, 1).shape[1]
    try:
        several = _run(model, INPUT, 3)
    except ModelError as error:
        raise ModelError(f"the graph takes one crop at a time; export it with a free first side: {error}") from error
    if several.shape != (3, length):
        raise ModelError(f"the graph gives {several.shape} for three crops, wanted (3, {length})")
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["faces", length]))
    return model


def embedding_output(model: onnx.ModelProto) -> str:
    """The name of the output that is an embedding, (N, D).

    Raises:
        ModelError: there is none, or several.
    """
    session = open_session(model.SerializeToString(), 1)
    crops = np.zeros((1, 3, 112, 112), np.float32)
    outputs = dict(zip(session.outputs, session.run({_input(model).name: crops}), strict=True))
    found = [name for name, value in outputs.items() if value.ndim == 2 and value.shape[1] in LENGTHS]
    if len(found) != 1:
        shapes = {name: value.shape for name, value in outputs.items()}
        raise ModelError(f"the graph gives {shapes}; an embedder gives one output (N, D)")
    return found[0]


def count_weights(model: onnx.ModelProto) -> int:
    """Numbers in the graph's initialisers."""
    return sum(int(np.prod(item.dims)) for item in model.graph.initializer)


def _constants(model: onnx.ModelProto) -> set[str]:
    named = {item.name for item in model.graph.initializer}
    return named | {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}


def _input(model: onnx.ModelProto) -> Any:
    # Old exports list their weights among the inputs.
    inputs = [value for value in model.graph.input if value.name not in _constants(model)]
    if len(inputs) != 1:
        raise ModelError(f"the graph has the inputs {[value.name for value in inputs]}; an embedder has one")
    return inputs[0]


def _run(model: onnx.ModelProto, name: str, crops: int) -> np.ndarray:
    session = open_session(model.SerializeToString(), 1)
    return session.run({name: np.zeros((crops, 3, 112, 112), np.float32)})[0]


def _front(wanted: Preprocessing) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes from our pixels ``face`` to the network's own input, and their constants."""
    steps: list[tuple[str, np.ndarray]] = []
    if wanted.colour == "BGR":
        steps.append(("Gather", np.array([2, 1, 0], np.int64)))
    # Ours are (x - m) s. Theirs, (x - M) S, are ours times S / s, plus (m - M) S.
    factor = np.divide(wanted.scale, ALIGNED_CROP.scale).reshape(1, 3, 1, 1)
    offset = (np.subtract(ALIGNED_CROP.mean, wanted.mean) * wanted.scale).reshape(1, 3, 1, 1)
    if not np.allclose(factor, 1.0, atol=1e-7):
        steps.append(("Mul", factor.astype(np.float32)))
    if np.any(offset):
        steps.append(("Add", offset.astype(np.float32)))
    nodes, constants, current = [], [], INPUT
    for kind, value in steps:
        name = f"facekd.{kind.lower()}"
        attributes: dict[str, Any] = {"axis": 1} if kind == "Gather" else {}
        nodes.append(helper.make_node(kind, [current, f"{name}.constant"], [name], **attributes))
        constants.append(numpy_helper.from_array(value, f"{name}.constant"))
        current = name
    nodes.append(helper.make_node("Identity", [current], ["facekd.input"]))
    return nodes, constants


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)} - set(names)
    # What inner values are called is nobody's concern, but two of one name would be one.
    names = {**{name: f"original.{name}" for name in taken & {INPUT, OUTPUT}}, **names}
    for node in model.graph.node:
        for side in (node.input, node.output):
            for place, name in enumerate(side):
                if name in names:
                    side[place] = names[name]
    for item in model.graph.initializer:
        item.name = names.get(item.name, item.name)
