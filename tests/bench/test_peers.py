"""Peers: found in the folder that the user names, or an error that says what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekd.bench.detection import open_yunet, square_photograph
from facekd.bench.peers import PEER_FILES, YuNet, peer_file
from facekd.bench.speed import BOX, HEIGHT, LANDMARKS, WIDTH, as_jpeg, example_photograph
from facekd.errors import ConfigError, ModelError
from facekd.images import load_image


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one of yunet, sface"):
        peer_file("mtcnn", tmp_path)
    with pytest.raises(ConfigError, match="--peer-models"):
        peer_file("yunet", None)
    with pytest.raises(ConfigError, match="is missing"):
        peer_file("yunet", tmp_path)
    for name in PEER_FILES.values():
        (tmp_path / name).write_bytes(b"no model")
    assert peer_file("sface", tmp_path).name == PEER_FILES["sface"]
    with pytest.raises(ModelError, match="OpenCV cannot load"):
        YuNet(peer_file("yunet", tmp_path))
    with pytest.raises(ConfigError, match="no detector"):
        open_yunet("sface", tmp_path)


def test_example_photograph() -> None:
    picture = example_photograph()
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert load_image(as_jpeg(picture)).shape == picture.shape
    assert ((BOX[:2] < LANDMARKS) & (BOX[2:] > LANDMARKS)).all()
    np.testing.assert_array_equal(square_photograph()[:HEIGHT, :WIDTH], picture)
