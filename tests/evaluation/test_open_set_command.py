"""`facekd evaluate open-set`, from embeddings on disk and from a model that reads a crop's number off its pixels."""

from __future__ import annotations

import csv
import json
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekd import cli


class FakeEmbedder:
    contract = "0123456789abcdef"
    record = types.SimpleNamespace(name="tiny")

    def __init__(self, table: np.ndarray) -> None:
        self.table = table
        self.asked = 0

    def embed(self, pictures: np.ndarray) -> np.ndarray:
        self.asked += len(pictures)
        return self.table[pictures[:, 0, 0, 0].astype(int) + 256 * pictures[:, 0, 0, 1].astype(int)]


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Thirty people of `val` and twelve of `test` with six crops each, and ten of nobody, the last one copied."""
    rng = np.random.default_rng(0)
    rows = [("val", f"v{k // 6}") for k in range(180)] + [("test", f"t{k // 6}") for k in range(72)]
    rows += [("test", "")] * 10
    centres = {name: rng.normal(size=12) for _, name in rows}
    matrix = np.stack([centres[name] + 0.6 * rng.normal(size=12) if name else rng.normal(size=12) for _, name in rows])
    matrix[-1] = matrix[180]
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    np.save(tmp_path / "e.npy", matrix.astype(np.float32))
    with (tmp_path / "faces.csv").open("w", newline="") as file, zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        writer = csv.writer(file)
        writer.writerow(["shard", "file", "identity", "split"])
        for number, (split, name) in enumerate(rows):
            pixels = np.zeros((112, 112, 3), np.uint8)
            pixels[..., 0], pixels[..., 1] = number % 256, number // 256
            with archive.open(f"{number}.png", "w") as member:
                Image.fromarray(pixels).save(member, "PNG")
            writer.writerow(["s.zip", f"{number}.png", name, split])
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = cli.run(["evaluate", "open-set", *arguments, "--json"])
    printed = capsys.readouterr().out
    return code, json.loads(printed) if printed else {}


def test_figures_for_each_size(crops: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = str(crops / "e.npy")
    common = (str(crops), "--embeddings", stored, "--sizes", "9,5000", "--fpir", "0.2", "--draws", "5")
    code, found = answer(capsys, *common)
    assert [row["templates"] for row in found["results"]["test"]] == [9, 28]
    assert code == (0 if all(row["kept"] for row in found["results"]["test"]) else 1)
    small, large = found["results"]["test"]
    assert small["threshold"] < large["threshold"]
    assert found["calibration"].endswith("split val; all pairs of people weigh alike")
    screened = answer(capsys, *common, "--screening", stored)[1]
    assert screened["results"]["test"][1]["templates"] < 28  # at least the copy of somebody with a name


def test_embeddings_are_kept_for_the_next_run(
    crops: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = FakeEmbedder(np.load(crops / "e.npy"))
    monkeypatch.setattr("facekd.recognition.embedder.Embedder", lambda _: embedder)
    common = (str(crops), "--fpir", "0.2", "--draws", "2", "--keep", str(crops / "kept"))
    first = answer(capsys, *common)
    assert embedder.asked == 262
    assert answer(capsys, *common) == first
    assert embedder.asked == 262
    stored = ("--embeddings", str(crops / "e.npy"))
    (row,) = answer(capsys, str(crops), *stored, "--fpir", "0.2", "--draws", "2")[1]["results"]["test"]
    assert row == pytest.approx(first[1]["results"]["test"][0])


@pytest.mark.parametrize(
    "wrong", [("--split", "val"), ("--sizes", "many"), ("--fuse", "both"), ("--fpir", "2")], ids=lambda pair: pair[0]
)
def test_wrong_use(crops: Path, wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, str(crops), "--embeddings", str(crops / "e.npy"), *wrong)[0] == 2
