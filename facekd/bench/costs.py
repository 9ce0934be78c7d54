"""What a network costs to run, read off its ONNX file: parameters, multiply-adds, bytes, time and memory. No torch."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.bench.timing import Timing, measure
from facekd.errors import ModelError
from facekd.evaluation.progress import Progress, silently
from facekd.runtime import open_session


@dataclass(frozen=True, slots=True)
class Cost:
    """What one exported network costs.

    Attributes:
        parameters: numbers that are learnt; statistics of BatchNorm are not counted.
        multiply_adds: of convolutions and linear layers, for one picture.
        file_bytes: size of the file on disk, not computed from the parameters.
        time: of one picture, measured in turns with the others of the table: processor time for one thread, so that
            what else the machine does counts neither for nor against a network; for several threads by the clock.
        peak_mib: peak resident memory of a process that runs the file on one picture, beyond one that runs nothing.
    """

    parameters: int
    multiply_adds: int
    file_bytes: int
    time: Timing
    peak_mib: float


def measure_costs(
    files: Mapping[str, Path],
    picture: NDArray[np.float32],
    rounds: int = 30,
    threads: int = 1,
    progress: Progress = silently,
) -> dict[str, Cost]:
    """The costs of several ONNX files, timed in turns so that a busy moment hits all alike.

    Args:
        files: by name.
        picture: (1, C, H, W) float32 input of each.
        rounds: the times are medians over so many.
        threads: of ONNX Runtime.
        progress: shows how far it is.

    Raises:
        ModelError: a file is unreadable, or does not run on the picture.
    """
    counted = {name: count_graph(path, picture) for name, path in files.items()}
    sessions = {name: open_session(path.read_bytes(), threads) for name, path in files.items()}
    times = measure(
        {name: (lambda s=session: s.run({s.inputs[0]: picture})) for name, session in sessions.items()},  # type: ignore[misc]
        rounds,
        progress=progress,
        clock=time.process_time if threads == 1 else time.perf_counter,
    )
    nothing = _peak_kib(None, picture.shape, threads)
    return {
        name: Cost(
            *counted[name],
            path.stat().st_size,
            times[name],
            max(0.0, (_peak_kib(path, picture.shape, threads) - nothing) / 1024),
        )
        for name, path in files.items()
    }


def count_graph(path: Path, picture: NDArray[np.float32]) -> tuple[int, int]:
    """Learnt parameters and multiply-adds of an ONNX graph on one picture (1, C, H, W).

    The same count as `facekd.engine.complexity.measure_complexity` of the network behind it. The graph is run once with
    the result of every counted layer exposed, so that no shape has to be guessed.

    Raises:
        ModelError: the file is no ONNX model, or does not run on the picture.
    """
    import onnx

    try:
        model = onnx.load(str(path))
    except Exception as error:  # the protobuf parser raises types of its own
        raise ModelError(f"cannot read {path} as ONNX: {error}") from error
    floats = {1, 10, 11, 16}  # FLOAT, FLOAT16, DOUBLE, BFLOAT16: what is no number of these is a shape or an index
    weights = {item.name: tuple(item.dims) for item in model.graph.initializer if item.data_type in floats}
    # The exporter merges equal weights and hands them on through Identity; a linear layer's may pass a Transpose,
    # and one that is stored as float16 a Cast.
    for node in model.graph.node:
        if node.op_type in _HANDING_ON and node.input[0] in weights:
            weights[node.output[0]] = _HANDING_ON[node.op_type](weights[node.input[0]])
    layers = [node for node in model.graph.node if node.op_type in _INNER and node.input[1] in weights]
    shown = {item.name for item in model.graph.output}
    for node in layers:
        if node.output[0] not in shown:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.output[0]))
    session = open_session(model.SerializeToString(), threads=1)
    values = dict(zip(session.outputs, session.run({session.inputs[0]: picture}), strict=True))
    multiply_adds = sum(
        values[node.output[0]].size * _INNER[node.op_type](node, weights[node.input[1]]) for node in layers
    )
    parameters = 0
    for node in model.graph.node:
        if node.op_type not in _HANDING_ON:
            # A BatchNorm's last two arguments are statistics. Single numbers are constants of an activation.
            learnt = node.input[:3] if node.op_type == "BatchNormalization" else node.input
            parameters += sum(prod(weights[name]) for name in learnt if weights.get(name))
    return parameters, multiply_adds


def _gemm_inner(node: Any, dims: tuple[int, ...]) -> int:
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return int(dims[1] if transposed else dims[0])


# Numbers that are multiplied and added up for one number of the result, by layer; from the node and its weight's sides.
_INNER = {
    "Conv": lambda _node, dims: prod(dims[1:]),
    "Gemm": _gemm_inner,
    "MatMul": lambda _node, dims: int(dims[-2]),
}

_HANDING_ON: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    "Cast": lambda dims: dims,
    "Identity": lambda dims: dims,
    "Transpose": lambda dims: dims[::-1],
}

# VmHWM counts this program alone. ru_maxrss survives exec on Linux: a child of a large process would report its parent.
_PROBE = """
import resource, sys
import numpy as np
from facekd.runtime import open_session
if sys.argv[1]:
    session = open_session(open(sys.argv[1], "rb").read(), threads=int(sys.argv[3]))
    for _ in range(3):
        session.run({session.inputs[0]: np.zeros([int(n) for n in sys.argv[2].split("x")], np.float32)})
try:
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1))
"""


def _peak_kib(path: Path | None, shape: tuple[int, ...], threads: int) -> int:
    """Peak resident memory of a fresh process that runs a file, or of one that only imports the runtime."""
    command = [sys.executable, "-c", _PROBE, str(path or ""), "x".join(map(str, shape)), str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(f"{path} does not run on a picture {shape}: {reason}")
    return int(result.stdout)
