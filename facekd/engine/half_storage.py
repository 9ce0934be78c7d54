"""Weights kept as 16-bit numbers: half the file, the same arithmetic.

Only what is stored changes. A Cast after each weight widens it to 32 bits, which ONNX Runtime does once, when it loads
the file; so a model answers as fast as before, and computes in 32 bits as before.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from facekd.errors import ModelError

LARGEST = float(np.finfo(np.float16).max)
SUFFIX = ".half"  # of the name under which the 16-bit numbers stand; the Cast's result has the weight's own name


def halve_weights(content: bytes) -> bytes:
    """Store the weights of an ONNX model as float16.

    Kernels and matrices are halved. Vectors stay as they are: a BatchNorm's variance may be too small for 16 bits, and
    all of them together are a hundredth of the file. `facekd.engine.export.load_onnx_weights` reads both kinds of file.

    Args:
        content: an ONNX file.

    Returns:
        The smaller file. A model that is stored so already comes back with the same weights.

    Raises:
        ModelError: it is no ONNX model, or a weight lies beyond 65,504, the largest float16.
    """
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # the protobuf parser raises types of its own
        raise ModelError(f"the weights cannot be read as ONNX: {error}") from error
    casts = []
    for item in model.graph.initializer:
        if item.data_type != onnx.TensorProto.FLOAT or len(item.dims) < 2:
            continue
        values = numpy_helper.to_array(item)
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= LARGEST:
            raise ModelError(f"the weight {item.name!r} reaches {largest:g}, and float16 ends at 65504: keep it whole")
        name = item.name
        item.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + SUFFIX))
        casts.append(helper.make_node("Cast", [name + SUFFIX], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def stored_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The weights of a model by their own names, widened where they are stored as float16."""
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] == node.output[0] + SUFFIX and node.input[0] in stored:
            stored[node.output[0]] = stored.pop(node.input[0]).astype(np.float32)
    return stored
