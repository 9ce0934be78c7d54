"""Public torch checkpoints of improved residual networks, brought into our ``IRResNet`` weight by weight.

Two namings are read: that of InsightFace's torch port (``conv1``, ``layer1.0.bn1``, …, ``features``), which is ours,
and that of the CurricularFace repository and its relatives (``input_layer``, ``body.N.res_layer``, ``output_layer``:
face.evoLVe, AdaFace). The second kind differs in three places, and our network holds all of them exactly: a unit that
halves the map without widening it passes on every second pixel (a 1x1 convolution by the identity); where nothing
normalises between a unit's first convolution and its PReLU, that BatchNorm is the identity; and a last BatchNorm
without factors has factors of 1.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facekd.errors import ModelError
from facekd.recognition.backbones.ir_resnet import UNITS, WIDTHS, IRResNet

Weights = Mapping[str, Tensor]

CURRICULARFACE, INSIGHTFACE = "CurricularFace's naming", "InsightFace's naming"
WRAPPERS = ("state_dict_backbone", "state_dict", "backbone", "model")
PREFIXES = ("module.", "backbone.", "model.", "net.")
NORM = ("weight", "bias", "running_mean", "running_var")
EPSILON = 1e-5  # of every BatchNorm in these networks, and torch's own default
GROUPS = 4


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network with the weights of a file.

    Attributes:
        network: in evaluation mode.
        naming: whose names the file had.
        architecture: its name in ``BACKBONES`` and the arguments that build it there.
    """

    network: IRResNet
    naming: str
    architecture: tuple[str, dict[str, Any]]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a torch file (a ``state_dict``, or one inside a training checkpoint); nothing in it is executed.

    Raises:
        ModelError: the file is unreadable, holds more than tensors, or weights of another network.
    """
    weights = _read_weights(path)
    if "input_layer.0.weight" in weights:
        try:
            naming, ours = CURRICULARFACE, _from_curricularface(weights, path)
        except KeyError as error:
            raise ModelError(
                f"{path} lacks the weight {error.args[0]}: it is cut off, or of another network"
            ) from error
    elif "layer1.0.bn1.weight" in weights:
        naming, ours = INSIGHTFACE, dict(weights)
    else:
        some = ", ".join(list(weights)[:4])
        raise ModelError(
            f"{path} has weights named {some}, …; known are CurricularFace's IR and IR-SE (input_layer, body, "
            "output_layer) and InsightFace's iresnet (conv1, layer1 to layer4, fc, features). Export other networks "
            "to ONNX and import that"
        )
    network, architecture = _build(ours, path)
    return Checkpoint(network, naming, architecture)


def _read_weights(path: Path) -> Weights:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} is no torch file of plain weights ({reason}); where the network was made, save its weights: "
            "torch.save(network.state_dict(), FILE)"
        ) from error
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    weights = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            bare = str(name)
            while bare.startswith(PREFIXES):
                bare = bare.partition(".")[2]
            weights[bare] = value.float() if value.is_floating_point() else value
    if not weights:
        raise ModelError(f"{path} holds no weights: wanted a state_dict, or a checkpoint with one inside")
    return weights


def _from_curricularface(weights: Weights, path: Path) -> dict[str, Tensor]:
    """The same weights under our names."""
    blocks = sorted({int(name.split(".")[1]) for name in weights if name.startswith("body.")})
    depths = [_layers(weights, f"body.{block}.res_layer")[1][-1][1].shape[0] for block in blocks]
    starts = [i for i, depth in enumerate(depths) if i == 0 or depth != depths[i - 1]]
    if len(starts) != GROUPS or blocks != list(range(len(blocks))):
        raise ModelError(f"{path} has units of widths {depths}; wanted four groups, each wider than the last")
    ours = {"conv1.weight": weights["input_layer.0.weight"], "prelu.weight": weights["input_layer.2.weight"]}
    ours |= _norm(weights, "input_layer.1", "bn1")
    inputs = ours["conv1.weight"].shape[0]
    for block in blocks:
        group = sum(start <= block for start in starts)
        target = f"layer{group}.{block - starts[group - 1]}"
        ours |= _unit(weights, f"body.{block}", target, inputs, halves=block in starts)
        inputs = depths[block]
    ours |= _norm(weights, "output_layer.0", "bn2")
    linear = next((name for name in ("output_layer.3", "output_layer.2") if f"{name}.weight" in weights), "")
    last = f"output_layer.{int(linear[-1]) + 1}" if linear else ""
    if not linear or f"{last}.running_mean" not in weights:
        raise ModelError(f"{path} has another head than BatchNorm, dropout, linear, BatchNorm")
    ours["fc.weight"] = weights[f"{linear}.weight"]
    ours["fc.bias"] = weights.get(f"{linear}.bias", torch.zeros(len(ours["fc.weight"])))
    return ours | _norm(weights, last, "features")


def _unit(weights: Weights, source: str, target: str, inputs: int, halves: bool) -> dict[str, Tensor]:
    """One unit: BatchNorm, convolution, perhaps BatchNorm, PReLU, convolution, BatchNorm, perhaps excitation."""
    norms, convolutions, prelus = _layers(weights, f"{source}.res_layer")
    outputs = convolutions[-1][1].shape[0]
    if len(norms) not in (2, 3) or len(convolutions) != 2 or len(prelus) != 1:
        raise ModelError(
            f"{source} has {len(norms)} BatchNorms, {len(convolutions)} convolutions and {len(prelus)} PReLUs; a unit "
            "has 2 or 3, 2 and 1"
        )
    ours = {f"{target}.conv{i + 1}.weight": value for i, (_, value) in enumerate(convolutions)}
    ours[f"{target}.prelu.weight"] = prelus[0][1]
    ours |= _norm(weights, norms[0][0], f"{target}.bn1")
    ours |= _norm(weights, norms[-1][0], f"{target}.bn3")
    ours |= _norm(weights, norms[1][0], f"{target}.bn2") if len(norms) == 3 else _identity(outputs, f"{target}.bn2")
    if f"{source}.shortcut_layer.0.weight" in weights:
        ours[f"{target}.downsample.0.weight"] = weights[f"{source}.shortcut_layer.0.weight"]
        ours |= _norm(weights, f"{source}.shortcut_layer.1", f"{target}.downsample.1")
    elif halves:
        ours[f"{target}.downsample.0.weight"] = torch.eye(inputs)[:, :, None, None]
        ours |= _identity(outputs, f"{target}.downsample.1")
    for name in weights:
        if name.startswith(f"{source}.res_layer.") and name.endswith((".fc1.weight", ".fc2.weight")):
            part = "reduce" if name.endswith(".fc1.weight") else "expand"
            ours[f"{target}.excite.{part}.weight"] = weights[name].flatten(1)
            bias = weights.get(name.replace(".weight", ".bias"), torch.zeros(len(weights[name])))
            ours[f"{target}.excite.{part}.bias"] = bias
    return ours


def _layers(weights: Weights, path: str) -> tuple[list[tuple[str, Tensor]], ...]:
    """(name, weight) of the BatchNorms, convolutions and PReLUs of a sequence, each in its order."""
    norms, convolutions, prelus = [], [], []
    numbers = {name.split(".")[3] for name in weights if name.startswith(f"{path}.") and name.count(".") == 4}
    for number in sorted(numbers, key=int):
        name = f"{path}.{number}"
        weight = weights[f"{name}.weight"]
        if f"{name}.running_mean" in weights:
            norms.append((name, weight))
        elif weight.ndim == 4:
            convolutions.append((name, weight))
        else:
            prelus.append((name, weight))
    if not convolutions:
        raise ModelError(f"{path} has no convolution: the checkpoint is of another network")
    return norms, convolutions, prelus


def _norm(weights: Weights, source: str, target: str) -> dict[str, Tensor]:
    """A BatchNorm; one without factors and offsets has 1 and 0."""
    mean = weights[f"{source}.running_mean"]
    plain = {"weight": torch.ones_like(mean), "bias": torch.zeros_like(mean)}
    return {
        f"{target}.{part}": weights[f"{source}.{part}"] if f"{source}.{part}" in weights else plain[part]
        for part in NORM
    }


def _identity(channels: int, target: str) -> dict[str, Tensor]:
    """A BatchNorm that changes nothing: its variance makes up for the epsilon."""
    one, zero = torch.ones(channels), torch.zeros(channels)
    values = (one, zero, zero.clone(), one - EPSILON)
    return {f"{target}.{part}": value for part, value in zip(NORM, values, strict=True)}


def _build(ours: dict[str, Tensor], path: Path) -> tuple[IRResNet, tuple[str, dict[str, Any]]]:
    """The network that these weights are of."""
    names = list(ours)
    units = tuple(len({n.split(".")[1] for n in names if n.startswith(f"layer{k}.")}) for k in range(1, GROUPS + 1))
    try:
        widths = tuple(ours[f"layer{k}.0.conv2.weight"].shape[0] for k in range(1, GROUPS + 1))
        dimension, flat = ours["fc.weight"].shape
    except KeyError as error:
        raise ModelError(f"{path} lacks the weight {error.args[0]}: it is of another network") from error
    if flat != widths[-1] * 49:
        raise ModelError(f"{path} is for crops of another size than 112x112: its last layer takes {flat} numbers")
    squeeze = any(".excite." in name for name in names)
    options: dict[str, Any] = {"squeeze": True} if squeeze else {}
    if widths != WIDTHS:
        options["widths"] = list(widths)
    depth = next((depth for depth, known in UNITS.items() if known == units), None)
    if depth is None:
        options["units"] = list(units)
    with torch.device("meta"):  # no arithmetic for weights that are replaced at once
        network = IRResNet(dimension, squeeze=squeeze, widths=widths, units=units)
    wanted = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    _check_fit(ours, wanted, path)
    counters = {name: torch.zeros((), dtype=torch.long) for name in set(network.state_dict()) - set(wanted)}
    network.load_state_dict({**{name: ours[name].clone() for name in wanted}, **counters}, assign=True)
    network.requires_grad_(True)
    return network.eval(), (f"ir_resnet{depth or 100}", options)


def _check_fit(ours: Weights, wanted: Weights, path: Path) -> None:
    counted = {name for name in ours if not name.endswith("num_batches_tracked")}
    faults = [f"lacks {name}" for name in sorted(set(wanted) - counted)]
    faults += [f"has {name} besides" for name in sorted(counted - set(wanted))]
    faults += [
        f"{name} is {tuple(ours[name].shape)}, wanted {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & counted)
        if ours[name].shape != wanted[name].shape
    ]
    if faults:
        raise ModelError(f"{path} is of another network: {_some(faults)}")


def _some(faults: Sequence[str], most: int = 4) -> str:
    return "; ".join(faults[:most]) + (f"; and {len(faults) - most} more" if len(faults) > most else "")
