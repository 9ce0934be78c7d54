"""Weights stored as 16-bit numbers: what is stored shrinks, what is computed stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs the train extra")
onnx = pytest.importorskip("onnx")

from torch import nn  # noqa: E402

from facekd.bench.costs import count_graph  # noqa: E402
from facekd.cli import build_app  # noqa: E402
from facekd.engine.export import export_onnx, load_onnx_weights  # noqa: E402
from facekd.engine.half_storage import halve_weights  # noqa: E402
from facekd.errors import ModelError  # noqa: E402
from facekd.runtime import open_session  # noqa: E402
from facekd.zoo import find_model, load_manifest, read_model  # noqa: E402
from facekd.zoo.writing import write_record  # noqa: E402

PICTURES = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)


def small(seed: int = 0) -> nn.Module:
    """Two convolutions, a BatchNorm whose variance float16 cannot hold, and two biases that the exporter merges."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 32)
    )
    for layer in (network[0], network[3]):
        nn.init.zeros_(layer.bias)
    network[1].running_var.fill_(1e-9)
    return network.eval()


def exported(network: nn.Module, path: Path) -> bytes:
    export_onnx(
        network,
        torch.from_numpy(PICTURES),
        path,
        inputs=["pictures"],
        outputs=["numbers"],
        dynamic_axes={"pictures": {0: "n"}, "numbers": {0: "n"}},
    )
    return path.read_bytes()


def test_the_file_shrinks_and_the_answers_stay(tmp_path: Path) -> None:
    content = exported(small(), tmp_path / "small.onnx")
    halved = halve_weights(content)
    matrices = 2 * sum(p.numel() for p in small().parameters() if p.ndim > 1)
    assert len(content) - len(halved) == pytest.approx(matrices, rel=0.05)
    wide, narrow = (open_session(file, 1).run({"pictures": PICTURES})[0] for file in (content, halved))
    assert wide.dtype == narrow.dtype == np.float32
    assert np.abs(wide - narrow).max() < 2e-3 * np.abs(wide).max()
    assert np.abs(wide - narrow).max() > 0  # it is another file, and so another contract


def test_training_goes_on_from_a_halved_file(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(halve_weights(exported(small(), path)))
    restored = small(seed=1)
    load_onnx_weights(restored, path)
    for (name, value), wanted in zip(restored.state_dict().items(), small().state_dict().values(), strict=True):
        narrow = wanted.half().float() if wanted.ndim > 1 else wanted
        assert torch.equal(value, narrow), name


def test_halving_twice_changes_nothing_more(tmp_path: Path) -> None:
    once = halve_weights(exported(small(), tmp_path / "small.onnx"))
    assert halve_weights(once) == once


def test_a_halved_file_costs_the_same_arithmetic(tmp_path: Path) -> None:
    wide, narrow = tmp_path / "wide.onnx", tmp_path / "narrow.onnx"
    narrow.write_bytes(halve_weights(exported(small(), wide)))
    assert count_graph(narrow, PICTURES[:1]) == count_graph(wide, PICTURES[:1])


@pytest.mark.parametrize("value", [1e5, float("nan"), float("inf")])
def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path, value: float) -> None:
    network = small()
    with torch.no_grad():
        network[3].weight[0, 0, 0, 0] = value
    with pytest.raises(ModelError, match=r"3\.weight.*65504"):
        halve_weights(exported(network, tmp_path / "small.onnx"))


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="ONNX"):
        halve_weights(b"no model")


def test_zoo_add_halves(tmp_path: Path) -> None:
    shipped = find_model("embedder")
    run = tmp_path / "best.onnx"
    run.write_bytes(read_model(shipped))
    write_record(run, shipped.task, shipped.preprocessing, shipped.card)
    arguments = ["zoo", "add", str(run), "--name", "narrow", "--zoo", str(tmp_path / "zoo"), "--half"]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 0, result.output
    added = load_manifest(tmp_path / "zoo" / "manifest.toml").models["narrow"]
    assert read_model(added) == halve_weights(read_model(shipped))  # the digest in the manifest is that of the file
