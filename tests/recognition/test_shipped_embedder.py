"""The shipped embedder: the file that is run is the network that was trained, on crops of real people."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from facekd.detection.detector import Detector  # noqa: E402
from facekd.engine.export import load_onnx_weights  # noqa: E402
from facekd.images import list_images, load_image  # noqa: E402
from facekd.recognition.align import align_face  # noqa: E402
from facekd.recognition.backbones.dense_resnet import DenseResNet  # noqa: E402
from facekd.recognition.data.shards import read_faces_table, table_crops  # noqa: E402
from facekd.recognition.embedder import Embedder  # noqa: E402
from facekd.recognition.train import embed  # noqa: E402
from facekd.zoo import find_model  # noqa: E402


@pytest.fixture(scope="module")
def network() -> DenseResNet:
    """The weights of the file in torch."""
    network = DenseResNet()
    load_onnx_weights(network, find_model("embedder").path)
    return network


def agreement(network: DenseResNet, crops: np.ndarray) -> np.ndarray:
    """Cosine of each crop's embeddings by torch and by ONNX Runtime."""
    return (embed(network, crops) * Embedder(threads=1).embed(crops)).sum(axis=1)


def test_portraits_have_one_embedding_in_torch_and_in_onnx_runtime(network: DenseResNet, portraits: Path) -> None:
    detector = Detector(threads=1)
    crops = []
    for path in list_images(portraits):
        picture = load_image(path)
        crops += [align_face(picture, face.landmarks) for face in detector.detect(picture)[:1]]
    assert len(crops) >= 5
    assert agreement(network, np.stack(crops)).min() >= 0.9999


def test_crops_of_val_have_one_embedding_in_torch_and_in_onnx_runtime(network: DenseResNet, shared_data: Path) -> None:
    table = [row for row in read_faces_table(shared_data / "faces") if row["split"] == "val"][:1600:50]
    crops = table_crops(shared_data / "faces", table)[:]
    assert len(crops) == 32
    assert agreement(network, crops).min() >= 0.9999
