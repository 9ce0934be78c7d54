"""`facekd evaluate`, `bench` and `calibrate`: answers as scripts get them, with models that need no weights."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekd import cli
from facekd.cli import evaluate_detection
from facekd.detection.detector import Detection
from facekd.gallery.calibration import Calibration, from_zoo
from facekd.images import ImageSource
from facekd.zoo.writing import read_calibration


class CentreFinder:
    """Says that a face fills the picture."""

    score_threshold = 0.5

    def detect_raw(self, image: ImageSource, score_threshold: float) -> Sequence[Detection]:
        points = np.array([[3, 3], [7, 3], [5, 5], [3, 7], [7, 7]], np.float32)
        return [Detection(np.array([0, 0, 10, 10], np.float32), points, 0.9)]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = cli.run([*arguments, "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else {}


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "test").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "test" / "a.png")
    (tmp_path / "test.txt").write_text("# a.png 20 20\n0 0 10 10 3 3 0 7 3 0 5 5 0 3 7 0 7 7 0 1\n")
    monkeypatch.setattr(evaluate_detection, "_detector", lambda *_: CentreFinder())
    return tmp_path


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(12, 8)), 5, axis=0) + 0.3 * rng.normal(size=(60, 8))
    np.save(tmp_path / "e.npy", (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    with (tmp_path / "faces.csv").open("w", newline="") as file, zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        writer = csv.writer(file)
        writer.writerow(["shard", "file", "identity", "split", "group"])
        for k in range(60):
            Image.new("RGB", (112, 112), (k, k, k)).save(tmp_path / "x.png")
            archive.write(tmp_path / "x.png", f"{k}.png")
            writer.writerow(["s.zip", f"{k}.png", f"p{k // 5}", "val", "x"])
    return tmp_path


def test_detection(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = photographs / "sheet.png"
    code, figures = answer(capsys, "evaluate", "detection", str(photographs), "--sheet", str(sheet))
    assert code == 0
    assert (figures["ap"], figures["recall_at_precision_0.90"], figures["recall_at_fppi_0.1"]) == (1, 1, 1)
    assert (figures["images"], figures["faces"]) == (1, 1)
    assert sheet.is_file()
    assert cli.run(["evaluate", "detection", str(photographs)]) == 0
    assert "recall at precision 0.90" in capsys.readouterr().out


def test_landmarks(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, figures = answer(capsys, "evaluate", "landmarks", str(photographs))
    assert (code, figures["nme"], figures["images"]) == (0, 0.0, 1)


def test_wider(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = photographs / "wider.txt"
    labels.write_text("# test/a.png 20 20\n0 0 10 10 0 1 1\n")
    code, figures = answer(capsys, "evaluate", "wider", str(photographs), "--labels", str(labels))
    assert code == 0
    # No face is easy: JSON has no number for that.
    assert (figures["easy"], figures["medium"], figures["hard"], figures["photographs"]) == (None, 1.0, 1.0, 1)


def test_crops(crops: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "crops", str(crops), "--split", "val", "--embeddings", str(crops / "e.npy")]
    code, figures = answer(capsys, *arguments, "--group", "group", "--replicates", "20")
    assert code == 0
    assert list(figures["tar"]) == ["1e-2", "1e-3", "1e-4", "1e-5"]
    assert (figures["identities"], figures["pairs"]["mated"]) == (12, 120)
    assert 0 <= figures["eer"] <= 1
    assert figures["groups"]["1e-2"]["x"]["crops"] == 60
    assert cli.run([*arguments, "--replicates", "0"]) == 0
    assert "EER" in capsys.readouterr().out


def test_errors_have_documented_codes(crops: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embeddings = ["--embeddings", str(crops / "e.npy")]
    assert cli.run(["evaluate", "crops", str(crops), "--split", "test", *embeddings]) == 3
    assert "it has val" in capsys.readouterr().err
    assert cli.run(["evaluate", "crops", str(crops), "--split", "val", "--peer", "yunet"]) == 2
    assert cli.run(["evaluate", "lfw", str(crops), "--peer", "sface"]) == 2
    assert "--peer-models" in capsys.readouterr().err
    assert cli.run(["calibrate", str(crops), "--out", str(crops / "x.csv")]) == 2
    assert ".json, .toml" in capsys.readouterr().err
    for option, name in (("--out", "c.json"), ("--plot", "det.png")):
        assert cli.run(["calibrate", str(crops), option, str(crops / "missing" / name)]) == 2
        assert "there is no folder" in capsys.readouterr().err
    assert cli.run(["bench", "detection", "--wider", str(crops)]) == 2


class FakeEmbedder:
    """The embeddings of the fixture, by the grey of a crop; masked ones a little off."""

    contract = "0123456789abcdef"

    def __init__(self, model: str) -> None:
        self.record = type("Record", (), {"name": "tiny"})
        self.table: np.ndarray = np.empty((0, 8))

    def embed(self, pictures: np.ndarray) -> np.ndarray:
        return self.table[pictures[:, 0, 0, 0]]


def test_calibrate(crops: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    embedder = FakeEmbedder("")
    embedder.table = np.load(crops / "e.npy")
    monkeypatch.setattr("facekd.recognition.embedder.Embedder", lambda _: embedder)
    code, artefact = answer(capsys, "calibrate", str(crops), "--out", str(crops / "c.json"), "--replicates", "20")
    assert code == 0
    loaded = Calibration.load(crops / "c.json")
    assert loaded.contract == FakeEmbedder.contract
    assert loaded.model_dump(mode="json") == artefact
    assert loaded.masked is not None
    assert loaded.unmasked.people == 12
    assert loaded.threshold(1e-2) == pytest.approx(loaded.unmasked.points[2].threshold)
    assert cli.run(["calibrate", str(crops), "--out", str(crops / "c.toml"), "--replicates", "20"]) == 0
    record = tomllib.loads((crops / "c.toml").read_text())["models"]["tiny"]["calibration"]
    assert record["thresholds"]["1e-2"] == loaded.unmasked.points[2].threshold
    assert record["masked"]["people"] == 12
    shipped = from_zoo(read_calibration(crops / "c.toml"), FakeEmbedder.contract)
    assert shipped is not None
    for masked in (False, True):
        lowest, highest = (loaded.curve(masked=masked).points[k].threshold for k in (0, -1))
        for threshold in np.linspace(lowest - 0.01, highest + 0.01, 50).tolist():
            assert shipped.rate(threshold, masked=masked) == loaded.rate(threshold, masked=masked)


def test_a_folder_or_model_of_any_name_makes_a_record_that_is_read_again(
    crops: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = FakeEmbedder("")
    embedder.table = np.load(crops / "e.npy")
    embedder.record = type("Record", (), {"name": "tiny.v2"})
    monkeypatch.setattr("facekd.recognition.embedder.Embedder", lambda _: embedder)
    folder = shutil.copytree(crops, crops / 'pe"op\\le')
    target = crops / "c.toml"
    assert cli.run(["calibrate", str(folder), "--out", str(target), "--no-masked", "--replicates", "20"]) == 0
    found = read_calibration(target)
    assert found.source == 'pe"op\\le, split val; all pairs of people weigh alike'
    assert found.people == 12
    assert set(found.fmr_upper) == set(found.thresholds)


def test_a_calibration_that_cannot_be_written_is_printed_all_the_same(
    crops: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = FakeEmbedder("")
    embedder.table = np.load(crops / "e.npy")
    monkeypatch.setattr("facekd.recognition.embedder.Embedder", lambda _: embedder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Calibration, "save", full)
    command = ["calibrate", str(crops), "--out", str(crops / "c.json"), "--no-masked", "--replicates", "20"]
    code, artefact = answer(capsys, *command)
    assert code == 3
    assert artefact["contract"] == FakeEmbedder.contract
