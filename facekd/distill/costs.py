"""What a network costs to run: parameters, multiply-adds, bytes on disk, time and memory, all measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from torch import nn

from facekd.bench.timing import measure
from facekd.engine.complexity import measure_complexity
from facekd.errors import ModelError
from facekd.runtime import open_session


@dataclass(frozen=True, slots=True)
class Cost:
    """What one exported network costs.

    Attributes:
        parameters: numbers in the file.
        multiply_adds: of one picture; None where the network is known as a file only.
        file_bytes: size of the file on disk, not computed from the parameters.
        median_ms: of one picture, one thread, measured in turns with the others of the table.
        peak_mib: resident memory of a process that runs the file on one picture, beyond one that runs nothing.
    """

    parameters: int
    multiply_adds: int | None
    file_bytes: int
    median_ms: float
    peak_mib: float


def file_parameters(path: Path) -> int:
    """Numbers in the initialisers of an ONNX file, BatchNorm statistics included."""
    import onnx

    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # the protobuf parser raises types of its own
        raise ModelError(f"cannot read {path} as ONNX: {error}") from error
    return sum(int(np.prod(item.dims)) for item in graph.initializer)


def measure_costs(
    files: Mapping[str, Path],
    picture: np.ndarray,
    networks: Mapping[str, nn.Module] | None = None,
    rounds: int = 30,
) -> dict[str, Cost]:
    """The costs of several ONNX files, timed in turns so that a busy moment hits all alike.

    Args:
        files: by name.
        picture: (1, C, H, W) float32 input of each.
        networks: the torch networks behind them, where known: for multiply-adds and exact parameters.
        rounds: of the clock.
    """
    counted = {name: measure_complexity(network, picture.shape[1:]) for name, network in (networks or {}).items()}
    sessions = {name: open_session(path.read_bytes(), threads=1) for name, path in files.items()}
    times = measure(
        {name: (lambda s=session: s.run({s.inputs[0]: picture})) for name, session in sessions.items()},  # type: ignore[misc]
        rounds,
    )
    return {
        name: Cost(
            counted[name].parameters if name in counted else file_parameters(path),
            counted[name].multiply_adds if name in counted else None,
            path.stat().st_size,
            times[name].median_ms,
            peak_memory_mib(path, picture.shape),
        )
        for name, path in files.items()
    }


_PROBE = """
import resource, sys
import numpy as np
from facekd.runtime import open_session
shape = tuple(int(n) for n in sys.argv[2].split("x"))
if sys.argv[1]:
    session = open_session(open(sys.argv[1], "rb").read(), threads=1)
    for _ in range(3):
        session.run({session.inputs[0]: np.zeros(shape, np.float32)})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_memory_mib(path: Path, shape: tuple[int, ...]) -> float:
    """Peak resident memory of a fresh process that runs an ONNX file, less that of one that only imports ONNX Runtime.

    Raises:
        ModelError: the file does not run.
    """

    # ru_maxrss counts kibibytes on Linux and bytes on macOS.
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return max(0.0, (_peak(str(path), shape) - _peak("", shape)) / unit)


@cache
def _peak(path: str, shape: tuple[int, ...]) -> int:
    """What the probe prints; the process that runs nothing is measured once."""
    command = [sys.executable, "-c", _PROBE, path, "x".join(map(str, shape))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(f"{path} does not run on a picture {shape}: {reason}")
    return int(result.stdout)
