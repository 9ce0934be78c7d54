"""The shipped embedders: the file that is run is the network that was trained, on crops of real people."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from facekd.detection.detector import Detector  # noqa: E402
from facekd.engine.export import load_onnx_weights  # noqa: E402
from facekd.images import list_images, load_image  # noqa: E402
from facekd.recognition.align import align_face  # noqa: E402
from facekd.recognition.backbones import BACKBONES  # noqa: E402
from facekd.recognition.data.shards import read_faces_table, table_crops  # noqa: E402
from facekd.recognition.embedder import Embedder  # noqa: E402
from facekd.recognition.train import embed  # noqa: E402
from facekd.zoo import find_model, load_manifest  # noqa: E402

NETWORKS = {"dense-resnet": "dense_resnet", "fused-mobilefacenet": "fused_mobilefacenet"}


def agreement(name: str, crops: np.ndarray) -> np.ndarray:
    """Cosine of each crop's embeddings by torch and by ONNX Runtime."""
    network = BACKBONES[NETWORKS[name]]()
    load_onnx_weights(network, find_model(name).path)
    return (embed(network, crops) * Embedder(name, threads=1).embed(crops)).sum(axis=1)


def test_every_embedder_of_the_zoo_is_looked_at() -> None:
    assert {name for name, record in load_manifest().models.items() if record.task == "embedder"} == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_portraits_have_one_embedding_in_torch_and_in_onnx_runtime(name: str, portraits: Path) -> None:
    detector = Detector(threads=1)
    crops = []
    for path in list_images(portraits):
        picture = load_image(path)
        crops += [align_face(picture, face.landmarks) for face in detector.detect(picture)[:1]]
    assert len(crops) >= 5
    assert agreement(name, np.stack(crops)).min() >= 0.9999


@pytest.mark.parametrize("name", NETWORKS)
def test_crops_of_val_have_one_embedding_in_torch_and_in_onnx_runtime(name: str, shared_data: Path) -> None:
    table = [row for row in read_faces_table(shared_data / "faces") if row["split"] == "val"][:1600:50]
    crops = table_crops(shared_data / "faces", table)[:]
    assert len(crops) == 32
    assert agreement(name, crops).min() >= 0.9999
