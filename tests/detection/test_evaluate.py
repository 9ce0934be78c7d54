"""Photographs meet a detector that is known to the last pixel."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.detection.detector import Detection
from facekd.detection.error_sheet import save_miss_sheet, worst_misses
from facekd.detection.evaluate import (
    FoundFaces,
    evaluate_detection,
    evaluate_landmarks,
    evaluate_wider,
    look,
    nearest_to_centre,
    read_split,
)
from facekd.errors import ConfigError, DataError
from facekd.evaluation.photographs import Photographs, folder_or_archive
from facekd.images import ImageSource, load_image

UNKNOWN = "-1.00 -1.00 -1.0 " * 5
FACE_POINTS = np.array([[12, 14], [28, 14], [20, 20], [14, 28], [26, 28]], np.float32)


class BrightSquare:
    """Finds the one white square of a picture; landmarks stand at fixed places in it."""

    score_threshold = 0.5

    def detect_raw(self, image: ImageSource, score_threshold: float) -> Sequence[Detection]:
        picture = load_image(image)
        rows, columns = np.nonzero(picture[..., 0] > 128)
        if not len(rows):
            return []
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
        points = box[:2] + (FACE_POINTS - 10) / 20 * (box[2:] - box[:2])
        found = [Detection(box, points.astype(np.float32), 0.9), Detection(box + 1000, points, 0.01)]
        return [detection for detection in found if detection.score >= score_threshold]


def png(width: int, height: int, box: tuple[int, int, int, int] | None) -> bytes:
    picture = np.zeros((height, width, 3), np.uint8)
    if box is not None:
        picture[box[1] : box[3], box[0] : box[2]] = 255
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    points = " ".join(f"{x} {y} 0.0" for x, y in FACE_POINTS)
    labels = f"# a.png 100 80\n10 10 20 20 {points} 1\n60 60 9 9 {UNKNOWN} 1\n# b.png 60 60\n# c.png 60 60\n"
    (tmp_path / "test.txt").write_text(labels)
    table = "file,source\na.png,helen\nb.png,scenes\nc.png,scenes\n"
    (tmp_path / "photographs.csv").write_text(table, encoding="utf-8-sig")  # as spreadsheets save it
    with zipfile.ZipFile(tmp_path / "test.zip", "w") as archive:
        archive.writestr("a.png", png(100, 80, (10, 10, 30, 30)))
        archive.writestr("b.png", png(60, 60, None))
        archive.writestr("c.png", png(60, 60, (5, 5, 30, 30)))  # a false alarm
    return tmp_path


@pytest.mark.parametrize("long_side", [None, 50, 200])
def test_figures(root: Path, long_side: int | None) -> None:
    figures = evaluate_detection(root, "test", BrightSquare(), long_side_px=long_side)
    assert figures["images"] == 3
    assert figures["faces"] == 2
    assert figures["ap"] == pytest.approx(0.25)  # hit and false alarm of one score: precision 1/2 at recall 1/2
    assert figures["recall_at_fppi_0.1"] == 0.0
    at = figures["at_threshold"]
    assert (at["recall"], at["precision"], at["false_alarms"]) == (0.5, 0.5, 1)
    assert (at["photographs_without_faces"], at["false_alarms_without_faces"]) == (2, 1)
    assert sum(size["faces"] for size in figures["by_size"]) == 2


def test_coordinates_come_back_in_the_photograph_s_own_pixels(root: Path) -> None:
    photographs = folder_or_archive(root, "test")
    (own,) = look(BrightSquare(), photographs, ["a.png"])
    (large,) = look(BrightSquare(), photographs, ["a.png"], long_side_px=300)
    np.testing.assert_array_equal(own.boxes, [[10, 10, 30, 30]])
    np.testing.assert_allclose(large.boxes, own.boxes, atol=0.5)
    np.testing.assert_allclose(large.landmarks, own.landmarks, atol=0.5)


def test_landmarks(root: Path) -> None:
    figures = evaluate_landmarks(root, "test", BrightSquare(), source="helen")
    assert figures["nme"] == pytest.approx(0.0, abs=1e-6)
    assert (figures["images"], figures["faces"], figures["missed"], figures["over_0.1"]) == (1, 1, 0, 0.0)
    everything = evaluate_landmarks(root, "test", BrightSquare(), score_threshold=0.95)
    assert (everything["images"], everything["missed"]) == (3, 1)
    assert math.isnan(everything["nme"])
    with pytest.raises(ConfigError, match="'afw'"):
        evaluate_landmarks(root, "test", BrightSquare(), source="afw")


def test_wider(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "1.png").write_bytes(png(60, 60, (10, 10, 30, 30)))
    (tmp_path / "labels.txt").write_text("# e/1.png 60 60\n10 10 20 20 1 1 1\n40 40 5 5 0 0 1\n")
    figures = evaluate_wider(tmp_path, tmp_path / "labels.txt", BrightSquare())
    assert figures == {"easy": 1.0, "medium": 1.0, "hard": 0.5, "photographs": 1}


def test_nothing_labelled(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text(f"# a.png 10 10\n1 1 5 5 {UNKNOWN} -1\n")
    with pytest.raises(DataError, match="labels no face"):
        read_split(tmp_path, "test")
    (tmp_path / "test.txt").write_text("# a.png 10 10\n1 1 5 5\n")
    with pytest.raises(DataError, match=r"photographs\.csv"):
        evaluate_landmarks(tmp_path, "test", BrightSquare(), source="helen")


def test_nearest_to_the_centre() -> None:
    def at(x: float, y: float, score: float) -> Detection:
        return Detection(np.array([x - 5, y - 5, x + 5, y + 5], np.float32), FACE_POINTS, score)

    assert nearest_to_centre([], (100, 100)) is None
    chosen = nearest_to_centre([at(10, 10, 0.9), at(55, 45, 0.6), at(90, 50, 0.99)], (100, 100))
    assert chosen is not None
    assert chosen.score == 0.6


def test_sheet_of_the_worst(root: Path) -> None:
    labels = read_split(root, "test")
    photographs = folder_or_archive(root, "test")
    found = look(BrightSquare(), photographs, [photograph.name for photograph in labels])
    misses, alarms = worst_misses(labels, found, 0.5)
    assert [(number, caption) for number, _, caption in misses] == [(0, "missed, 9 px")]
    assert [(number, caption) for number, _, caption in alarms] == [(2, "alarm, 0.90")]
    save_miss_sheet(root / "sheet.png", photographs, labels, found, 0.5)
    assert load_image(root / "sheet.png").shape[1] == 6 * 128
    nothing = [FoundFaces.of([]) for _ in labels]
    assert [caption for _, _, caption in worst_misses(labels, nothing, 0.5)[0]] == ["missed, 20 px", "missed, 9 px"]


def test_missing_photograph(root: Path) -> None:
    with pytest.raises(DataError, match=r"z\.png"):
        look(BrightSquare(), Photographs(root / "test.zip"), ["z.png"])
