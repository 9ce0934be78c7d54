"""The doctor finds what is wrong, and says what nobody should rely on."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd import cli, doctor
from facekd.gallery.gallery import Gallery
from facekd.gallery.sealing import new_key_file

CONTRACT = "0123456789abcdef"


@pytest.fixture
def empty_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "manifest.toml").write_text("[defaults]\n[models]\n")
    monkeypatch.setenv("FACEKD_ZOO", str(folder))
    return folder


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    path = tmp_path / "people.db"
    with Gallery.open(path, contract=CONTRACT, dimension=4) as opened:
        opened.enrol("Ada", [np.float32([1, 0, 0, 0])])
    return path


def test_a_healthy_installation_without_a_gallery(empty_zoo: Path, tmp_path: Path) -> None:
    report = doctor.examine(tmp_path / "none.db")
    assert report["problems"] == []
    assert report["gallery"] is None
    assert report["versions"]["numpy"] == np.__version__
    assert report["machine"]["cores"] >= 1
    assert any("liveness" in words for words in report["not_protected"])


def test_any_distribution_of_opencv_will_do(empty_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def with_windows(name: str) -> str:
        if name == "opencv-python-headless":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", with_windows)
    report = doctor.examine(tmp_path / "none.db")
    assert report["problems"] == []
    assert report["versions"]["opencv"] == cv2.__version__
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert doctor.examine(tmp_path / "none.db")["problems"] == ["opencv is not installed: reinstall facekd"]


def test_a_gallery_is_counted_and_its_lack_of_encryption_told(empty_zoo: Path, gallery: Path) -> None:
    report = doctor.examine(gallery)
    assert report["problems"] == []
    assert (report["gallery"]["people"], report["gallery"]["templates"]) == (1, 1)
    assert report["gallery"]["contract"] == CONTRACT
    assert report["gallery"]["private"] is True
    assert any("not encrypted" in words for words in report["not_protected"])
    gallery.chmod(0o644)
    assert any("chmod 600" in words for words in doctor.examine(gallery)["not_protected"])


def test_an_encrypted_gallery_is_never_called_open_and_its_key_may_be_named(
    empty_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACEKD_GALLERY_KEY", raising=False)
    path, key = tmp_path / "sealed.db", tmp_path / "gallery.key"
    with Gallery.open(path, contract=CONTRACT, dimension=4, key=new_key_file(key)) as opened:
        opened.enrol("Ada", [np.float32([1, 0, 0, 0])])
    assert cli.run(["doctor", "--gallery", str(path), "--json"]) == 4
    report = json.loads(capsys.readouterr().out)
    assert report["gallery"]["encrypted"] is True
    assert "name its key" in report["problems"][0]
    assert not any("not encrypted" in words for words in report["not_protected"])
    assert cli.run(["doctor", "--gallery", str(path), "--key-file", str(key), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["gallery"]["people"], report["gallery"]["encrypted"]) == (1, True)


def test_a_damaged_gallery_is_a_problem_and_exit_code_4(
    empty_zoo: Path, gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(gallery.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    gallery.write_bytes(content)
    assert cli.run(["doctor", "--gallery", str(gallery), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["problems"]


def test_a_gallery_that_was_named_must_be_there(empty_zoo: Path, tmp_path: Path) -> None:
    assert cli.run(["doctor", "--gallery", str(tmp_path / "none.db")]) == 4


def test_a_missing_model_is_a_problem_and_an_uncalibrated_embedder_is_told(empty_zoo: Path, tmp_path: Path) -> None:
    (empty_zoo / "manifest.toml").write_text(
        '[defaults]\nembedder = "gone"\n[models.gone]\ntask = "embedder"\nfile = "gone.onnx"\n'
        f'sha256 = "{"0" * 64}"\n[models.gone.preprocessing]\nmean = [0, 0, 0]\nscale = [1, 1, 1]\n'
        'width = 112\nheight = 112\ntemplate = "arcface-112"\n'
    )
    report = doctor.examine(tmp_path / "none.db")
    assert [model["verified"] for model in report["models"]] == [False]
    assert any("gone.onnx" in problem for problem in report["problems"])
    assert any("not calibrated" in words for words in report["not_protected"])


def test_a_gallery_of_another_embedder_is_a_problem(gallery: Path) -> None:
    assert any(CONTRACT in problem for problem in doctor.examine(gallery)["problems"])


def test_people_read_it_as_text(empty_zoo: Path, gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--gallery", str(gallery)]) == 0
    printed = capsys.readouterr().out
    assert "1 people, 1 templates, not encrypted" in printed
    assert "everything is in order" in printed
