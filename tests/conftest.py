"""What tests share: where the photographs are, and whether the shipped models are there."""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of research photographs beside the clone; tests that need it are skipped in a bare clone."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the research photographs in ../shared/data, which a bare clone does not have")
    return folder


@pytest.fixture(scope="session")
def portraits() -> Path:
    """The packaged portraits: obama.jpg, obama2.jpg, obama3.jpg, biden.jpg, hopper.jpg."""
    return ROOT / "facekd" / "demo_data"


@pytest.fixture
def away_from_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, here and in the processes that the test starts. They import the clone's facekd, whether
    or not one is installed, and wherever pytest was started."""
    given = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), given] if given else [str(ROOT)]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unreadable_folder(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Takes away the right to list a folder; by a stand-in, because root may read whatever its mode says."""
    locked: set[str] = set()

    def refusing(of_system: Callable[..., Any]) -> Callable[..., Any]:
        def asked(path: Any = ".") -> Any:
            if not isinstance(path, int) and os.fspath(path) in locked:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
            return of_system(path)

        return asked

    monkeypatch.setattr(os, "scandir", refusing(os.scandir))
    monkeypatch.setattr(os, "listdir", refusing(os.listdir))
    return lambda folder: locked.add(str(folder))


@pytest.fixture
def saved_by_spreadsheet() -> Callable[[Path], None]:
    """Turns a text file, or all in a folder, into what spreadsheets and editors of Windows save: a byte order mark
    first."""

    def save(path: Path) -> None:
        for file in [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in (".txt", ".csv")]:
            file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())

    return save


class RunRanks(Protocol):
    """Runs a script once for each rank; gives their exit codes and what they wrote to standard error."""

    def __call__(self, script: Path, folder: Path) -> tuple[list[int], list[str]]: ...


@pytest.fixture(scope="session")
def run_two_ranks() -> RunRanks:
    """Run ``python SCRIPT RANK 2 FOLDER`` in two processes that meet over gloo."""

    def run(script: Path, folder: Path) -> tuple[list[int], list[str]]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if sys.platform == "linux":
            environment["GLOO_SOCKET_IFNAME"] = "lo"
        processes = [
            subprocess.Popen(
                [sys.executable, str(script), str(rank), "2", str(folder)],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            errors = [process.communicate(timeout=400)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        return [process.returncode for process in processes], errors

    return run


# The fake models: small graphs that really look at the picture, so that tests need no trained weights. Their "faces"
# are squares in which red exceeds green (see paint_face); the rest of the pixels says who it is and what is worn.

_RED_OVER_GREEN = {"none": 140, "mask": 120, "incorrect": 100}


class PaintFace(Protocol):
    """Paints a face that the fake models see."""

    def __call__(
        self, image: np.ndarray, left: int, top: int, side: int, person: int = 0, mask: str = "none"
    ) -> None: ...


@pytest.fixture(scope="session")
def paint_face() -> PaintFace:
    """Paint a square that the models of ``fake_zoo`` take for a face, in place.

    Sides of 24 px and more are found, wherever they lie; faces must be two sides apart. ``person`` seeds the pattern
    that the embedder sees (cosine near 1 for equal seeds, near 0 for others); ``mask`` is none, mask or incorrect.
    """

    def paint(image: np.ndarray, left: int, top: int, side: int, person: int = 0, mask: str = "none") -> None:
        blocks = np.random.default_rng(person).choice([25, 90], size=(7, 7))
        rows = np.arange(side) * 7 // side
        green = blocks[rows][:, rows] + np.random.default_rng(1).integers(-24, 25, (side, side))
        square = np.stack([green + _RED_OVER_GREEN[mask], green, green], axis=-1).astype(np.uint8)
        height, width = image.shape[:2]
        y1, x1, y2, x2 = max(top, 0), max(left, 0), min(top + side, height), min(left + side, width)
        image[y1:y2, x1:x2] = square[y1 - top : y2 - top, x1 - left : x2 - left]

    return paint


@pytest.fixture(scope="session")
def fake_zoo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with manifest.toml and three fake models; shared by all tests, so copy it before changing it."""
    pytest.importorskip("onnx", reason="building the fake models needs the package onnx (extra: train)")
    folder = tmp_path_factory.mktemp("zoo")
    parts = ['[defaults]\ndetector = "fake-detector"\nembedder = "fake-embedder"\nmask = "fake-mask"\n']
    for task, build in (("detector", _fake_detector), ("embedder", _fake_embedder), ("mask", _fake_mask)):
        content = build()
        (folder / f"fake-{task}.onnx").write_bytes(content)
        size = "width = 0\nheight = 0\nmultiple = 32" if task == "detector" else "width = 112\nheight = 112"
        template = "none" if task == "detector" else "arcface-112"
        calibration = {
            "detector": "score_threshold = 0.5",
            "embedder": 'source = "fake"\npairs = 1\nthresholds = {"1e-2" = 0.4, "1e-3" = 0.5, "1e-4" = 0.6}',
            "mask": "temperature = 1.0",
        }[task]
        parts.append(
            f'[models.fake-{task}]\ntask = "{task}"\nfile = "fake-{task}.onnx"\n'
            f'sha256 = "{hashlib.sha256(content).hexdigest()}"\n'
            f"[models.fake-{task}.preprocessing]\nmean = [127.5, 127.5, 127.5]\n"
            f'scale = [0.0078125, 0.0078125, 0.0078125]\n{size}\ntemplate = "{template}"\n'
            f'[models.fake-{task}.card]\nrecipe = "none"\nlicence = "Apache-2.0"\n'
            f"[models.fake-{task}.calibration]\n{calibration}\n"
        )
    (folder / "manifest.toml").write_text("\n".join(parts), encoding="utf-8")
    return folder


@pytest.fixture
def fake_zoo(fake_zoo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the fake models, and FACEKD_ZOO pointing at it: every model by default is a fake one, here and in
    the processes that the test starts."""
    monkeypatch.setenv("FACEKD_ZOO", str(fake_zoo_folder))
    return fake_zoo_folder


def _onnx_bytes(
    nodes: list[Any], constants: dict[str, np.ndarray], image: tuple[str, list[Any]], outputs: Any
) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "fake",
        [helper.make_tensor_value_info(image[0], TensorProto.FLOAT, image[1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def _fake_detector() -> bytes:
    """Matched filters for squares of red: the mean inside an anchor minus the mean of the ring around it.

    The box is the red square itself, from the sum and the centre of gravity of what lies within two anchor sides;
    landmarks lie as in an aligned crop that just fills the box.
    """
    from onnx import helper

    from facekd.detection.anchors import SIDES, STRIDES
    from facekd.detection.codec import VARIANCES
    from facekd.recognition.align import TEMPLATE

    # From (dx, dy, side of the face), all over 0.1 anchor sides, to five points.
    points = np.zeros((3, 5, 2), np.float32)
    points[0, :, 0] = points[1, :, 1] = 1
    points[2] = (TEMPLATE - 56) / 112
    constants = {
        # Red minus green in 0..255, over 140: 1 in a face without a mask. The input is (x - 127.5) / 128.
        "redness": np.array([1, -1, 0], np.float32).reshape(1, 3, 1, 1) * (128 / 140),
        "gain": np.array(20, np.float32),
        "offset": np.array(0.5, np.float32),
        "least": np.array(1e-3, np.float32),
        "variance0": np.array(VARIANCES[0], np.float32),
        "variance1": np.array(VARIANCES[1], np.float32),
        "points": points.reshape(3, 10),
        "by_anchor": np.array([0, 4, 2, -1], np.int64),
        "by_row": np.array([0, -1, 4], np.int64),
        "last": np.array([2], np.int64),
    }
    nodes = [helper.make_node("Conv", ["image", "redness"], ["red"])]
    for stride, sides in zip(STRIDES, SIDES, strict=True):
        reach = max(sides) // stride  # the ring is twice as wide as the anchor; in cells
        steps = np.arange(-reach, reach + 1) * stride
        kernels = np.zeros((4, len(sides), 1, 2 * reach + 1, 2 * reach + 1), np.float32)
        for row, side in enumerate(sides):
            inside, both = _window(side / stride, reach), _window(2 * side / stride, reach)
            total = both / (side / stride) ** 2
            kernels[:, row, 0] = [
                inside / inside.sum() - (both - inside) / (both - inside).sum(),
                total,
                total * steps[None, :] / (VARIANCES[0] * side),
                total * steps[:, None] / (VARIANCES[0] * side),
            ]
        constants[f"kernel{stride}"] = kernels.reshape(-1, *kernels.shape[2:])
        nodes += [
            helper.make_node("AveragePool", ["red"], [f"p{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2),
            helper.make_node("Conv", [f"p{stride}", f"kernel{stride}"], [f"c{stride}"], pads=[reach] * 4),
            helper.make_node("Reshape", [f"c{stride}", "by_anchor"], [f"r{stride}"]),
            helper.make_node("Transpose", [f"r{stride}"], [f"t{stride}"], perm=[0, 3, 2, 1]),
            helper.make_node("Reshape", [f"t{stride}", "by_row"], [f"f{stride}"]),
        ]
    nodes += [
        helper.make_node("Concat", [f"f{stride}" for stride in STRIDES], ["measured"], axis=1),
        helper.make_node("Split", ["measured"], ["match", "sum", "moment_x", "moment_y"], axis=2),
        helper.make_node("Sub", ["match", "offset"], ["above"]),
        helper.make_node("Mul", ["above", "gain"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
        helper.make_node("Squeeze", ["score", "last"], ["scores"]),
        helper.make_node("Max", ["sum", "least"], ["mass"]),
        helper.make_node("Div", ["moment_x", "mass"], ["dx"]),
        helper.make_node("Div", ["moment_y", "mass"], ["dy"]),
        helper.make_node("Sqrt", ["mass"], ["side"]),  # of the face, in anchor sides
        helper.make_node("Log", ["side"], ["log_side"]),
        helper.make_node("Div", ["log_side", "variance1"], ["side_code"]),
        helper.make_node("Concat", ["dx", "dy", "side_code", "side_code"], ["boxes"], axis=2),
        helper.make_node("Div", ["side", "variance0"], ["spread"]),
        helper.make_node("Concat", ["dx", "dy", "spread"], ["place"], axis=2),
        helper.make_node("MatMul", ["place", "points"], ["landmarks"]),
    ]
    shapes = [("scores", ["n", "a"]), ("boxes", ["n", "a", 4]), ("landmarks", ["n", "a", 10])]
    return _onnx_bytes(nodes, constants, ("image", ["n", 3, "h", "w"]), shapes)


def _window(cells: float, reach: int) -> np.ndarray:
    """A square of so many cells a side round the middle of a (2 reach + 1)² field; border cells count in part."""
    line = np.clip(cells / 2 + 0.5 - np.abs(np.arange(-reach, reach + 1)), 0, 1)
    return np.outer(line, line)


def _fake_embedder() -> bytes:
    """A fixed random projection of the green pattern, its mean removed."""
    from onnx import helper

    projection = np.random.default_rng(7).normal(size=(49, 512)).astype(np.float32)
    constants = {
        "green": np.array([0, 1, 0], np.float32).reshape(1, 3, 1, 1),
        "flat": np.array([0, -1], np.int64),
        "projection": projection - projection.mean(0),
    }
    nodes = [
        helper.make_node("Conv", ["face", "green"], ["pattern"]),
        helper.make_node("AveragePool", ["pattern"], ["blocks"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Reshape", ["blocks", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "projection"], ["embedding"]),
    ]
    return _onnx_bytes(nodes, constants, ("face", ["n", 3, 112, 112]), [("embedding", ["n", 512])])


def _fake_mask() -> bytes:
    """Logits fall with the distance of the middle's redness from what paint_face paints for each status."""
    from onnx import helper

    constants = {
        "redness": np.array([1, -1, 0], np.float32).reshape(1, 3, 1, 1) * 128,
        "start": np.array([40, 40], np.int64),
        "stop": np.array([72, 72], np.int64),
        "axes": np.array([2, 3], np.int64),
        "flat": np.array([0, -1], np.int64),
        "targets": np.array([list(_RED_OVER_GREEN.values())], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["face", "redness"], ["red"]),
        helper.make_node("Slice", ["red", "start", "stop", "axes"], ["middle"]),
        helper.make_node("GlobalAveragePool", ["middle"], ["mean"]),
        helper.make_node("Reshape", ["mean", "flat"], ["value"]),
        helper.make_node("Sub", ["value", "targets"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["distance"]),
        helper.make_node("Neg", ["distance"], ["logits"]),
    ]
    return _onnx_bytes(nodes, constants, ("face", ["n", 3, 112, 112]), [("logits", ["n", 3])])
