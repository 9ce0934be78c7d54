"""Embeddings that `evaluate open-set --keep` keeps: of these pictures and no others, whole or not at all."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.cli.evaluate_open_set import _label
from facekd.evaluation.lfw import POINTS
from facekd.gallery.evaluate import Embedding


class Counting:
    """The mean colour of a crop, and how many crops were looked at."""

    def __init__(self) -> None:
        self.asked = 0

    def embed(self, crops: np.ndarray) -> np.ndarray:
        self.asked += len(crops)
        return crops.mean(axis=(1, 2)).astype(np.float32) / 255


def _png(*levels: int, size: int = 112) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), levels, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _crops(folder: Path, *levels: int, shard: str = "s.zip") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{shard},{number}.png,p{number},val" for number in range(len(levels))]
    (folder / "faces.csv").write_text("\n".join(["shard,file,identity,split", *lines]) + "\n")
    for number, level in enumerate(levels):
        if not shard:
            (folder / f"{number}.png").write_bytes(_png(level, 0, 0))
    if shard:
        with zipfile.ZipFile(folder / shard, "w") as archive:
            for number, level in enumerate(levels):
                archive.writestr(f"{number}.png", _png(level, 0, 0))
    return folder


@pytest.mark.parametrize("shard", ["s.zip", ""], ids=["archive", "loose files"])
def test_other_pictures_under_the_same_name_are_embedded_anew(tmp_path: Path, shard: str) -> None:
    embedder = Counting()
    embedding = Embedding(embedder, "contract", tmp_path / "kept")
    old, new = (
        _crops(tmp_path / name / "faces", *levels, shard=shard)
        for name, levels in (("old", (10, 20)), ("new", (30, 40)))
    )
    first = embedding.crops(old, "val").embeddings
    assert embedding.crops(new, "val").embeddings[:, 0] == pytest.approx(np.array([30, 40]) / 255)
    assert embedder.asked == 4
    assert np.array_equal(embedding.crops(old, "val").embeddings, first)
    assert embedder.asked == 4
    _crops(old, 20, 10, shard=shard)  # the same pictures in another order
    assert embedding.crops(old, "val").embeddings[:, 0] == pytest.approx(np.array([20, 10]) / 255)


def test_a_file_cut_off_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Counting()
    embedding = Embedding(embedder, "contract", tmp_path / "kept")
    folder = _crops(tmp_path / "faces", 10, 20, 30)
    rows = embedding.crops(folder, "val").embeddings
    (kept,) = (tmp_path / "kept").iterdir()
    whole = kept.read_bytes()
    for damaged in (whole[:-8], whole[:20], b"", b"no numbers"):
        kept.write_bytes(damaged)
        assert np.array_equal(embedding.crops(folder, "val").embeddings, rows)
        assert kept.read_bytes() == whole
    kept.unlink()

    def killed(file: Path, _: object) -> None:
        file.write_bytes(whole[:100])
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(np, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            embedding.crops(folder, "val")
    assert not kept.exists()
    assert np.array_equal(embedding.crops(folder, "val").embeddings, rows)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [kept.name]


def test_lfw_is_kept_by_its_photographs_and_landmarks(tmp_path: Path) -> None:
    embedder = Counting()
    embedding = Embedding(embedder, "contract", tmp_path / "kept")
    photograph = tmp_path / "lfw" / "photographs" / "Ada" / "Ada_0001.png"
    photograph.parent.mkdir(parents=True)
    columns = ",".join(f"{point}_{axis}" for point in POINTS for axis in "xy")
    asked = []
    for level, right in ((50, 70), (60, 70), (60, 70), (60, 80)):
        photograph.write_bytes(_png(level, 0, 0, size=200))
        points = f"30,40,{right},40,50,60,35,80,65,80"
        (tmp_path / "lfw" / "landmarks.csv").write_text(f"file,{columns}\nAda/Ada_0001.png,{points}\n")
        people = embedding.lfw(tmp_path / "lfw")
        assert people.identities == ["Ada"]
        asked.append(embedder.asked)
    assert asked == [1, 2, 2, 3]


def test_two_files_of_a_peer_are_two_models(tmp_path: Path) -> None:
    labels = set()
    for content in (b"one", b"two"):
        (tmp_path / "face_recognition_sface_2021dec.onnx").write_bytes(content)
        labels.add(_label("sface", "sface", tmp_path))
    assert len(labels) == 2
    assert all(label.startswith("sface-") for label in labels)
    assert _label("0123456789abcdef", None, None) == "0123456789abcdef"
