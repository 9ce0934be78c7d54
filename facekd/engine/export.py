"""From torch to ONNX and back: the committed file is at once the shipped model and the start of further training."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from facekd.engine.half_storage import stored_weights
from facekd.errors import ModelError
from facekd.whole_files import whole_file

OPSET = 17
SHARED = "facekd.shared:"  # prefix of the metadata that names the initialiser which a merged weight now lives in


def export_onnx(
    network: nn.Module,
    example: Tensor,
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]],
) -> None:
    """Write a network as one ONNX file with BatchNorm left unfolded.

    Weights keep their torch names, so ``load_onnx_weights`` can restore them exactly; ONNX Runtime folds BatchNorm
    into the convolutions when it loads the file, so nothing is lost at run time. The file appears under its name
    only when it is complete.

    Args:
        network: the network; it is copied, and the copy is traced in evaluation mode.
        example: an input to trace with.
        path: file to write; its folder is made.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
        dynamic_axes: per input or output, which axes may vary and what they are called.
    """
    frozen = copy.deepcopy(network).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    frozen = frozen.float().eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter announces its own retirement on every call
        torch.onnx.export(
            frozen,
            (example,),
            str(part),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in dynamic_axes.items()},
            opset_version=OPSET,
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
        _record_shared(frozen, part)


def _record_shared(network: nn.Module, path: Path) -> None:
    """Note in the file which weights the exporter merged because their values were equal.

    Two biases that are still zero become one initialiser under one of their names. The other name would be lost to
    ``load_onnx_weights``, so it is written into the file's metadata, pointing to the name that was kept.
    """
    model = onnx.load(str(path))
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for name, value in network.state_dict().items():
        if name in stored or not value.is_floating_point():
            continue
        wanted = value.numpy()
        twin = next((n for n, v in stored.items() if v.shape == wanted.shape and np.array_equal(v, wanted)), None)
        if twin is None:
            raise ModelError(f"the exported graph lost the weight {name!r}: {type(network).__name__} does not use it")
        model.metadata_props.add(key=SHARED + name, value=twin)
    onnx.save(model, str(path))


def load_onnx_weights(network: nn.Module, path: Path) -> None:
    """Fill a network with the weights of an ONNX file that ``export_onnx`` wrote from the same architecture.

    Args:
        network: receives the weights in place; counters of BatchNorm keep their value.
        path: the ONNX file.

    Raises:
        ModelError: the file is unreadable, or lacks a weight, or has one of another shape.
    """
    try:
        model = onnx.load(str(path))
    except Exception as error:  # the protobuf parser raises types of its own
        raise ModelError(f"Cannot read {path} as ONNX: {error}") from error
    stored = stored_weights(model)
    for entry in model.metadata_props:
        if entry.key.startswith(SHARED) and entry.value in stored:
            stored[entry.key.removeprefix(SHARED)] = stored[entry.value]
    state = network.state_dict()
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        if name not in stored:
            raise ModelError(f"{path} has no weight {name!r}: it was exported from another architecture")
        if tuple(stored[name].shape) != tuple(value.shape):
            raise ModelError(f"{path}: {name} is {stored[name].shape}, the network wants {tuple(value.shape)}")
        state[name] = torch.from_numpy(np.array(stored[name], dtype=np.float32))
    network.load_state_dict(state)
