"""Reading RetinaFace's label files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekd.detection.labels import read_labels
from facekd.errors import DataError

UNKNOWN = "-1.00 -1.00 -1.0 " * 5
POINTS = "11 21 0.0 12 22 0.0 13 23 1.0 14 24 0.0 15 25 0.0"


def write(folder: Path, text: str) -> Path:
    path = folder / "labels.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_empty_file_has_no_photographs(tmp_path: Path) -> None:
    assert read_labels(write(tmp_path, "")) == []


def test_photograph_without_lines_is_kept(tmp_path: Path) -> None:
    (only,) = read_labels(write(tmp_path, "# a b.webp 30 20\n"))
    assert (only.name, only.width, only.height) == ("a b.webp", 30, 20)
    assert only.boxes.shape == (0, 4)
    assert only.landmarks.shape == (0, 5, 2)
    assert only.ignore.shape == (0,)
    assert only.ignore.dtype == np.bool_


def test_boxes_landmarks_and_ignore(tmp_path: Path) -> None:
    faces = f"10 20 5.5 6 {POINTS} 1\n1 2 3 4 {UNKNOWN} -1\n7 8 9 10 {UNKNOWN} 1\n"
    text = f"# x/1.jpg 100 80\n{faces}\n# 2.jpg\n1 1 0 4\n5 5 2 2\n"
    first, second = read_labels(write(tmp_path, text))
    assert first.boxes.dtype == np.float32
    np.testing.assert_array_equal(first.boxes, np.array([[10, 20, 15.5, 26], [1, 2, 4, 6], [7, 8, 16, 18]], np.float32))
    np.testing.assert_array_equal(first.landmarks[0], [[11, 21], [12, 22], [13, 23], [14, 24], [15, 25]])
    assert np.isnan(first.landmarks[1:]).all()
    assert first.ignore.tolist() == [False, True, False]
    # The authors' own files give no size; a box without extent can be neither found nor missed.
    assert (second.name, second.width, second.height) == ("2.jpg", 0, 0)
    assert second.ignore.tolist() == [True, False]
    assert np.isnan(second.landmarks).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 2 3 4\n", "line 1: a face before"),
        ("# a 1 1\n1 2 3\n", "line 2: 3 numbers"),
        ("# a 1 1\n1 2 x 4\n", "line 2: could not convert"),
        ("# a 1 1\n1 2 nan 4\n", "not finite"),
        ("# a 1 1\n# a 1 1\n", "occurs twice"),
        ("#\n", "file name"),
    ],
)
def test_errors_say_where(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_labels(write(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read"):
        read_labels(tmp_path / "absent.txt")
