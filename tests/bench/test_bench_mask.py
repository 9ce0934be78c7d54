"""Mask heads side by side: counts as of the network behind the file, memory of the model alone, one judge for all."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd.bench import costs
from facekd.bench.costs import count_graph, measure_costs
from facekd.bench.mask import find_mask_head
from facekd.cli import run
from facekd.errors import ConfigError, ModelError
from facekd.recognition.evaluate_crops import evaluate_mask
from facekd.recognition.mask import MaskHead

torch = pytest.importorskip("torch", reason="makes its models with the extra train")
from torch import nn  # noqa: E402

from facekd.engine.complexity import measure_complexity  # noqa: E402
from facekd.engine.export import export_onnx  # noqa: E402
from facekd.recognition.mask_networks import MASK_NETWORKS  # noqa: E402

SMALL = {
    "mask_network": {"widths": (16, 16, 16)},
    "resnet": {"widths": (8, 8, 16, 16), "blocks": (1, 1, 1, 1)},
    "mobilenet_v3_small": {"width": 0.5, "hidden": 8},
    "shufflenet_v2": {"widths": (8, 8, 16, 16, 16)},
}
PICTURE = np.zeros((1, 3, 112, 112), np.float32)


def write(network: nn.Module, path: Path, side: int = 112) -> Path:
    axes = {"face": {0: "faces"}, "logits": {0: "faces"}}
    export_onnx(network, torch.zeros(1, 3, side, side), path, inputs=["face"], outputs=["logits"], dynamic_axes=axes)
    return path


class ByColour(nn.Module):
    """The class is the brightest channel."""

    def __init__(self, channels: tuple[int, ...] = (0, 1, 2), width: int = 4) -> None:
        super().__init__()
        self.unused = nn.Conv2d(3, width, 3)
        self.classify = nn.Linear(3, 3, bias=False)
        self.classify.weight.data = torch.eye(3)[list(channels)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(x.mean((2, 3))) + 1e-9 * self.unused(x).mean()


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Nine crops of `test` in flat colours that say the class, two of `val`."""
    folder = tmp_path / "mask"
    folder.mkdir()
    rows = [("shard", "file", "label", "split")]
    with zipfile.ZipFile(folder / "crops.zip", "w") as archive:
        for number in range(11):
            crop = np.full((112, 112, 3), 30, np.uint8)
            crop[..., number % 3] = 200
            archive.writestr(f"{number}.png", cv2.imencode(".png", crop[..., ::-1])[1].tobytes())
            split = "test" if number < 9 else "val"
            rows.append(("crops.zip", f"{number}.png", ("none", "mask", "incorrect")[number % 3], split))
    with (folder / "mask.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


@pytest.mark.parametrize("name", MASK_NETWORKS)
def test_a_graph_counts_as_the_network_behind_it(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    network = MASK_NETWORKS[name](**SMALL.get(name, {}))  # untrained: the exporter merges its equal biases
    wanted = measure_complexity(network)
    assert count_graph(write(network, tmp_path / "m.onnx"), PICTURE) == (wanted.parameters, wanted.multiply_adds)


def test_grouped_and_linear_layers_by_hand(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 9, 3))
    path = tmp_path / "m.onnx"
    export_onnx(network, torch.zeros(1, 4, 5, 5), path, inputs=["x"], outputs=["y"], dynamic_axes={})
    parameters = 8 * 2 * 9 + 8 + 16 + 72 * 3 + 3
    assert count_graph(path, np.zeros((1, 4, 5, 5), np.float32)) == (parameters, 9 * 8 * 18 + 216)


def test_memory_is_that_of_the_model_however_large_this_process_is(tmp_path: Path) -> None:
    ballast = np.ones(64 * 2**20 // 8)  # on Linux a child's ru_maxrss starts at its parent's
    wide = nn.Sequential(nn.AdaptiveAvgPool2d(16), nn.Flatten(), nn.Linear(768, 8192), nn.Linear(8192, 3))
    narrow = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    files = {name: write(net, tmp_path / f"{name}.onnx") for name, net in (("wide", wide), ("narrow", narrow))}
    found = measure_costs(files, PICTURE, rounds=3)
    assert found["wide"].peak_mib > 24 + found["narrow"].peak_mib  # 24 MiB of weights
    assert found["narrow"].peak_mib < 24
    assert found["wide"].file_bytes == files["wide"].stat().st_size
    assert ballast.size


def test_time_is_the_processors_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(costs.time, "process_time", lambda: next(ticks) / 1000)
    monkeypatch.setattr(costs, "_peak_kib", lambda *_: 0)
    path = write(ByColour(), tmp_path / "m.onnx")
    assert measure_costs({"m": path}, PICTURE, rounds=2)["m"].time.median_ms == pytest.approx(1)
    assert measure_costs({"m": path}, PICTURE, rounds=2, threads=2)["m"].time.median_ms != pytest.approx(1)


def test_the_command_judges_all_rows_on_the_same_crops(tmp_path: Path, masks: Path, capsys) -> None:
    teacher = write(ByColour(), tmp_path / "teacher.onnx")
    student = write(ByColour((0, 0, 2), width=2), tmp_path / "student.onnx")  # says `none` where it is `mask`
    out = [tmp_path / "plot.png", tmp_path / "table.md"]
    words = ["bench", "mask", str(masks), "--model", f"teacher={teacher}", "--model", f"student alone={student}"]
    words += ["--rounds", "2", "--plot", str(out[0]), "--markdown", str(out[1])]
    assert run([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    first, second = answer["models"]
    assert (first["name"], second["name"]) == ("teacher", "student alone")
    assert first["accuracy"] == 1.0
    assert second["recall"] == {"none": 1.0, "mask": 0.0, "incorrect": 1.0}
    assert second["points_below"] == pytest.approx(100 / 3)
    assert second["times_smaller"] == pytest.approx((4 * 28 + 9) / (2 * 28 + 9))
    judged = evaluate_mask(masks, "test", MaskHead(find_mask_head(student)))
    assert judged["accuracy"] == second["accuracy"]
    assert judged["images"] == 9
    table = out[1].read_text()
    assert str(tmp_path) not in table  # a page names no folder of this machine
    assert "facekd bench mask MASK --model teacher=MODEL --model 'student alone=MODEL'" in table
    assert "| student alone | 65 (1.9x smaller) |" in table
    assert "66.67 % | 1.000 | 0.000 | 1.000 |" in table
    assert cv2.imread(str(out[0])).std() > 5


def test_wrong_use_is_named(tmp_path: Path, masks: Path, capsys) -> None:
    assert run(["bench", "mask", str(masks), "--model", "teacher"]) == 2
    assert "NAME=MODEL" in capsys.readouterr().err
    assert run(["bench", "mask", str(masks), "--model", "a=mask", "--model", "a=mask"]) == 2
    with pytest.raises(ModelError, match="cannot read"):
        find_mask_head(tmp_path / "none.onnx")
    with pytest.raises(ConfigError, match="there is no model"):
        find_mask_head("masc")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="ONNX"):
        count_graph(tmp_path / "bad.onnx", PICTURE)
