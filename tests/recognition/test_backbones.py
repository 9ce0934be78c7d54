"""Backbones: sizes as documented, growing crops, and exact return from ONNX."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import onnx  # noqa: E402

from facekd.engine.export import load_onnx_weights  # noqa: E402
from facekd.errors import ModelError  # noqa: E402
from facekd.recognition.backbones import BACKBONES  # noqa: E402
from facekd.recognition.backbones.dense_resnet import DenseResNet, GlobalDepthwise  # noqa: E402
from facekd.recognition.train import export_embedder  # noqa: E402
from facekd.runtime import open_session  # noqa: E402


def small() -> DenseResNet:
    """A narrow one with statistics that are not the initial ones."""
    torch.manual_seed(0)
    network = DenseResNet(16, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 1))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_gives_embeddings(name: str) -> None:
    network = BACKBONES[name](dimension=32).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 112, 112)).shape == (2, 32)


def test_default_dense_resnet_has_the_parameters_of_the_table() -> None:
    assert sum(p.numel() for p in DenseResNet().parameters()) == 2_017_824


@pytest.mark.parametrize("size", [64, 80, 96, 112])
def test_crops_of_every_size_in_the_schedule_fit(size: int) -> None:
    with torch.no_grad():
        assert small()(torch.zeros(2, 3, size, size)).shape == (2, 16)


def test_resampled_head_keeps_the_answer_to_a_flat_map() -> None:
    torch.manual_seed(1)
    head = GlobalDepthwise(16, 7).eval()
    with torch.no_grad():
        head.conv.weight.copy_(torch.rand_like(head.conv.weight))  # positive: sums do not cancel
        full, small_map = head(torch.ones(1, 16, 7, 7)), head(torch.ones(1, 16, 4, 4))
    torch.testing.assert_close(full, small_map, rtol=0.05, atol=0.0)


def test_export_keeps_batchnorm_and_weights_return_exactly(tmp_path: Path) -> None:
    network, path = small(), tmp_path / "network.onnx"
    export_embedder(network, path)
    assert "BatchNormalization" in {node.op_type for node in onnx.load(str(path)).graph.node}
    assert [p.name for p in tmp_path.iterdir()] == ["network.onnx"]  # one file, no external data
    torch.manual_seed(5)
    other = DenseResNet(16, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 1))
    load_onnx_weights(other, path)
    for (name, a), b in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        if a.is_floating_point():
            assert torch.equal(a, b), name


def test_exported_graph_agrees_with_torch(tmp_path: Path) -> None:
    network, path = small(), tmp_path / "network.onnx"
    export_embedder(network, path)
    faces = np.random.default_rng(0).normal(size=(3, 3, 112, 112)).astype(np.float32)
    got = open_session(path.read_bytes(), threads=1).run({"face": faces})[0]
    with torch.no_grad():
        expected = network(torch.from_numpy(faces)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    export_embedder(small(), path)
    with pytest.raises(ModelError, match="wants"):
        load_onnx_weights(DenseResNet(32, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 1)), path)
    with pytest.raises(ModelError, match="no weight"):
        load_onnx_weights(DenseResNet(16, widths=(16, 16, 16, 16), blocks=(1, 1, 1, 1)), path)
    path.write_bytes(b"not onnx")
    with pytest.raises(ModelError, match="Cannot read"):
        load_onnx_weights(small(), path)
