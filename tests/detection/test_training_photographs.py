"""Reading collections of labelled photographs for training."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd.detection.data.photographs import SourceSettings, load_source, make_photograph, require_data
from facekd.detection.labels import LabelledPhotograph
from facekd.errors import DataError

UNKNOWN = " ".join(["-1.00 -1.00 -1.0"] * 5)


def picture(shade: int, width: int = 80, height: int = 60) -> bytes:
    written, data = cv2.imencode(".png", np.full((height, width, 3), shade, np.uint8))
    assert written
    return data.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = [f"{index}.png" for index in range(6)]
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for index, name in enumerate(names):
            archive.writestr(name, picture(40 * index))
    lines = [f"# {name} 80 60\n10 10 20 24 {UNKNOWN} 1\n50 30 5 5 {UNKNOWN} -1\n" for name in names]
    (tmp_path / "train.txt").write_text("".join(lines))
    (tmp_path / "table.csv").write_text("file,source\n" + "".join(f"{n},{'abcdef'[i]}\n" for i, n in enumerate(names)))
    return tmp_path


def settings(**extra: object) -> SourceSettings:
    return SourceSettings.model_validate({"photographs": "train.zip", "labels": "train.txt", **extra})


def test_a_zip_and_a_folder_give_the_same(folder: Path) -> None:
    with zipfile.ZipFile(folder / "train.zip") as archive:
        archive.extractall(folder / "files")
    zipped, _ = load_source(settings(), [folder], print)
    loose, _ = load_source(settings(photographs="files"), [folder], print)
    assert len(zipped) == len(loose) == 6
    for a, b in zip(zipped, loose, strict=True):
        np.testing.assert_array_equal(a.levels[0].luma, b.levels[0].luma)
    np.testing.assert_allclose(zipped[0].boxes, [[10, 10, 30, 34], [50, 30, 55, 35]])
    assert zipped[0].ignore.tolist() == [False, True]


def test_landmarks_by_people_weigh_more(folder: Path) -> None:
    source = settings(table="table.csv", landmarks_by_people=["b", "d"], landmark_weight=3.0)
    photographs, _ = load_source(source, [folder], print)
    assert [photograph.landmark_weight for photograph in photographs] == [1, 3, 1, 3, 1, 1]


def test_held_out_photographs_are_not_trained_on(folder: Path) -> None:
    training, held_out = load_source(settings(hold_out_every=3), [folder], print)
    assert len(training) == 4
    assert [label.name for _, label in held_out] == ["2.png", "5.png"]


def test_an_optional_collection_may_be_missing_and_says_so(folder: Path) -> None:
    said: list[str] = []
    assert load_source(settings(photographs="none.zip", optional=True), [folder], said.append) == ([], [])
    assert "none.zip" in said[0]
    with pytest.raises(DataError, match=r"none\.zip.*--data"):
        load_source(settings(photographs="none.zip"), [folder], said.append)


def test_unreadable_photographs_are_left_out_and_counted(folder: Path) -> None:
    (folder / "files").mkdir()
    (folder / "files" / "0.png").write_bytes(picture(9))
    (folder / "files" / "1.png").write_bytes(b"not a picture")
    said: list[str] = []
    photographs, _ = load_source(settings(photographs="files"), [folder], said.append)
    assert len(photographs) == 1
    assert "5 of 6" in said[0]


def test_data_is_looked_for_folder_by_folder(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "train.zip").write_bytes(b"")
    assert require_data(Path("train.zip"), [other, folder]) == other / "train.zip"
    assert require_data(Path("train.txt"), [other, folder]) == folder / "train.txt"
    assert require_data(folder / "train.txt", [other]) == folder / "train.txt"


def test_pixels_survive_the_planes_and_odd_sides_are_cut() -> None:
    rng = np.random.default_rng(0)
    rgb = cv2.resize(rng.integers(80, 180, (8, 8, 3)).astype(np.uint8), (133, 101), interpolation=cv2.INTER_CUBIC)
    label = LabelledPhotograph(
        "a", 133, 101, np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, bool)
    )
    photograph = make_photograph(rgb, label)
    assert (photograph.height, photograph.width) == (100, 132)
    assert [level.luma.shape for level in photograph.levels] == [(100, 132), (50, 66)]
    back = photograph.levels[0].window(2, 4, 130, 98).astype(int)
    assert np.abs(back - rgb[4:98, 2:130]).mean() < 3
    half = photograph.levels[1].window(0, 0, 66, 50).astype(int)
    assert np.abs(half - cv2.resize(rgb[:100, :132], (66, 50), interpolation=cv2.INTER_AREA)).mean() < 3


def test_the_longest_side_shrinks_pixels_and_labels_together() -> None:
    box = np.array([[20, 10, 60, 50]], np.float32)
    label = LabelledPhotograph("a", 200, 100, box, np.full((1, 5, 2), 30, np.float32), np.zeros(1, bool))
    photograph = make_photograph(np.zeros((100, 200, 3), np.uint8), label, longest_side=100)
    assert (photograph.height, photograph.width) == (50, 100)
    np.testing.assert_allclose(photograph.boxes, box / 2)
    np.testing.assert_allclose(photograph.landmarks, 15)
