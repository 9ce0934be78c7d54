"""Photographs to shards: what is kept, what is left out and why, and that the result is what training reads."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from facekd.detection.detector import Detection
from facekd.errors import DataError
from facekd.images import save_image
from facekd.recognition.align import TEMPLATE
from facekd.recognition.data.labelled_faces import prepare_labelled
from facekd.recognition.data.prepare import PrepareSettings, prepare, split_of
from facekd.recognition.data.shards import read_faces

SETTINGS = PrepareSettings(val_share=0.0)


class Finder:
    """Finds one face for each 100 pixels of width, larger ones to the right; pictures that are dark have none."""

    def detect(self, image: np.ndarray) -> list[Detection]:
        if image.mean() < 20:
            return []
        found = []
        for i in range(image.shape[1] // 100):
            side = 50 + 20 * i
            box = np.array([100 * i, 0, 100 * i + side, side], np.float32)
            found.append(Detection(box, (TEMPLATE * side / 112 + [100 * i, 0]).astype(np.float32), 0.9))
        return found


def write(path: Path, value: int, width: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 20, (120, width, 3), dtype=np.uint8)
    save_image(path, np.clip(noise + value, 0, 255).astype(np.uint8))


def test_people_crowds_and_faults(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    write(folder / "ann" / "1.png", 100)
    write(folder / "ann" / "2.png", 120, width=200)  # two faces: the larger one is taken
    write(folder / "bob" / "dark.png", 0)
    write(folder / "crowd.png", 140, width=300)  # nobody in particular: all three
    (folder / "bob" / "broken.png").write_bytes(b"not a picture")
    report = prepare(folder, tmp_path / "out", Finder(), SETTINGS)
    assert (report.crops, report.people) == (5, 1)
    reasons = dict(report.left_out)
    assert reasons["bob/dark.png"] == "no face found"
    assert "bob/broken.png" in reasons
    faces = read_faces([tmp_path / "out"], "train")
    assert faces.people == ("ann",)
    assert sorted(faces.labels.tolist()) == [-1, -1, -1, 0, 0]
    with (tmp_path / "out" / "faces.csv").open() as table:
        widths = [float(row["box_width"]) for row in csv.DictReader(table) if row["identity"] == "ann"]
    assert widths == [50.0, 70.0]


def test_small_and_blurred_faces_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "in" / "ann" / "1.png", 100)
    small = prepare(tmp_path / "in", tmp_path / "a", Finder(), PrepareSettings(min_face_px=60))
    assert small.crops == 0
    assert "50 px, under 60" in small.left_out[0][1]
    blurred = prepare(tmp_path / "in", tmp_path / "b", Finder(), PrepareSettings(min_sharpness=1e9))
    assert "sharpness" in blurred.left_out[0][1]


def test_nothing_is_overwritten_and_nothing_is_said(tmp_path: Path) -> None:
    write(tmp_path / "in" / "ann" / "1.png", 100)
    prepare(tmp_path / "in", tmp_path / "out", Finder(), SETTINGS)
    with pytest.raises(DataError, match="not empty"):
        prepare(tmp_path / "in", tmp_path / "out", Finder(), SETTINGS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no photograph"):
        prepare(tmp_path / "empty", tmp_path / "out2", Finder(), SETTINGS)
    assert not (tmp_path / "out2").exists()


def test_a_persons_split_follows_from_the_name_alone() -> None:
    names = [f"person {i}" for i in range(400)]
    splits = [split_of(name, 0.25) for name in names]
    assert splits == [split_of(name, 0.25) for name in names]
    assert 60 < splits.count("val") < 140
    assert all(split_of(name, 0.5) == "val" for name, split in zip(names, splits, strict=True) if split == "val")
    assert split_of("", 1.0) == "train"


def landmark_line(left: float, top: float, side: float, known: bool = True, face: bool = True) -> str:
    points = TEMPLATE * side / 112 + [left, top] if known else np.full((5, 2), -1.0)
    mark = 0.0 if known else -1.0
    numbers = " ".join(f"{x:.1f} {y:.1f} {mark}" for x, y in points)
    return f"{left} {top} {side} {side} {numbers} {1 if face else -1}"


def test_labelled_faces_are_cut_where_their_labels_say(tmp_path: Path) -> None:
    folder, labels = tmp_path / "photographs", tmp_path / "train.txt"
    write(folder / "a" / "1.png", 100, width=400)
    write(folder / "b" / "2.png", 120)
    write(folder / "surgeons" / "3.png", 140)
    write(folder / "a" / "4.png", 160)
    lines = [
        "# a/1.png",
        landmark_line(5, 5, 60),
        landmark_line(100, 5, 80),
        landmark_line(200, 5, 20),  # too small
        landmark_line(250, 5, 60, known=False),
        landmark_line(320, 5, 60, face=False),  # an ignore region
        "# b/2.png",
        landmark_line(5, 5, 60, known=False),
        "# surgeons/3.png",
        landmark_line(5, 5, 60),
        "# a/4.png",
        "# a/missing.png",
        landmark_line(5, 5, 60),
    ]
    labels.write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = prepare_labelled(folder, labels, tmp_path / "out", SETTINGS, leave_out=["surgeons"])
    assert (report.crops, report.people) == (2, 0)
    reasons = dict(report.left_out)
    assert reasons.keys() == {"b/2.png", "a/4.png", "a/missing.png"}
    assert reasons["b/2.png"] == "no face with landmarks"
    faces = read_faces([tmp_path / "out"], "train")
    assert faces.labels.tolist() == [-1, -1]
    assert 90 < faces.crops[0].mean() < 125
    with pytest.raises(DataError, match="not empty"):
        prepare_labelled(folder, labels, tmp_path / "out", SETTINGS)
    with pytest.raises(DataError, match="none of the"):
        prepare_labelled(tmp_path / "elsewhere", labels, tmp_path / "new", SETTINGS)
