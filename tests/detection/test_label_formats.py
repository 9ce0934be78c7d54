"""The same two faces in every form of labels give the same photograph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.detection.label_formats import read_any_labels, read_coco, read_voc, read_wider_text, read_yolo
from facekd.errors import DataError

BOXES = np.array([[10, 20, 30, 50], [40, 10, 60, 30]], np.float32)
POINTS = np.array([[12, 25], [28, 25], [20, 33], [14, 42], [26, 42]], np.float32)


def wider(folder: Path) -> Path:
    path = folder / "wider_face_train_bbx_gt.txt"
    path.write_text("a.png\n2\n10 20 20 30 0 0 0 0 0 0\n40 10 20 20 0 0 0 1 0 0\nb.png\n0\n0 0 0 0 0 0 0 0 0 0\n")
    return path


def voc(folder: Path) -> Path:
    target = folder / "voc"
    target.mkdir()
    objects = [("face", (11, 21, 30, 50), 0), ("face", (41, 11, 60, 30), 1), ("dog", (1, 1, 9, 9), 0)]
    text = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2), difficult in objects
    )
    size = "<size><width>100</width><height>80</height></size>"
    (target / "a.xml").write_text(f"<annotation><filename>a.png</filename>{size}{text}</annotation>")
    (target / "b.xml").write_text(f"<annotation><filename>b.png</filename>{size}</annotation>")
    return target


def coco(folder: Path) -> Path:
    keypoints = [value for x, y in POINTS.tolist() for value in (x, y, 2)]
    content = {
        "categories": [{"id": 1, "name": "face"}, {"id": 2, "name": "dog"}],
        "images": [
            {"id": 7, "file_name": "a.png", "width": 100, "height": 80},
            {"id": 8, "file_name": "b.png", "width": 100, "height": 80},
        ],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [10, 20, 20, 30], "keypoints": keypoints},
            {"image_id": 7, "category_id": 1, "bbox": [40, 10, 20, 20], "iscrowd": 1, "keypoints": [0] * 15},
            {"image_id": 8, "category_id": 2, "bbox": [1, 1, 8, 8]},
        ],
    }
    path = folder / "coco.json"
    path.write_text(json.dumps(content))
    return path


def yolo(folder: Path) -> Path:
    target = folder / "yolo"
    target.mkdir()
    points = " ".join(f"{x / 100} {y / 80}" for x, y in POINTS.tolist())
    unknown = " ".join(["-1 -1"] * 5)
    dog = "1 0.1 0.1 0.1 0.1"
    (target / "a.txt").write_text(f"0 0.2 0.4375 0.2 0.375 {points}\n0 0.5 0.25 0.2 0.25 {unknown}\n{dog}\n")
    return target


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (100, 80)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("write", "classes", "sizes", "landmarks", "ignored"),
    [
        (wider, None, False, False, True),
        (voc, {"face"}, True, False, True),
        (coco, {"face"}, True, True, True),
        (yolo, {"0"}, True, True, False),  # YOLO knows no ignore regions
    ],
)
def test_every_form(
    tmp_path: Path, images: Path, write: object, classes: set[str] | None, sizes: bool, landmarks: bool, ignored: bool
) -> None:
    first, second = read_any_labels(write(tmp_path), images, classes)  # type: ignore[operator]
    assert (first.name, second.name) == ("a.png", "b.png")
    assert (first.width, first.height) == ((100, 80) if sizes else (0, 0))
    np.testing.assert_allclose(first.boxes, BOXES, atol=1e-4)
    assert first.boxes.dtype == np.float32
    assert first.ignore.tolist() == [False, ignored]
    if landmarks:
        np.testing.assert_allclose(first.landmarks[0], POINTS, atol=1e-4)
    else:
        assert np.isnan(first.landmarks[0]).all()
    assert np.isnan(first.landmarks[1]).all()
    assert (second.boxes.shape, second.landmarks.shape, second.ignore.shape) == ((0, 4), (0, 5, 2), (0,))


@pytest.mark.parametrize("write", [wider, yolo])
def test_text_saved_by_a_spreadsheet(
    tmp_path: Path, images: Path, write: Callable[[Path], Path], saved_by_spreadsheet: Callable[[Path], None]
) -> None:
    path = write(tmp_path)
    saved_by_spreadsheet(path)
    np.testing.assert_allclose(read_any_labels(path, images, None)[0].boxes[:2], BOXES, atol=1e-4)


def test_retinaface_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("# a.png 100 80\n10 20 20 30\n", encoding=encoding)
        (only,) = read_any_labels(path)
        np.testing.assert_array_equal(only.boxes, BOXES[:1])
    path.write_text("")
    assert read_any_labels(path) == []


def test_all_classes_by_default(tmp_path: Path, images: Path) -> None:
    assert len(read_voc(voc(tmp_path))[0].boxes) == 3
    assert len(read_coco(coco(tmp_path))[1].boxes) == 1
    assert len(read_yolo(yolo(tmp_path), images)[0].boxes) == 3


def test_errors_say_which_file(tmp_path: Path, images: Path) -> None:
    text = tmp_path / "w.txt"
    for content, said in (("a.png\n", "line 1"), ("a.png\n1\n1 2 3\n", "3 numbers"), ("a.png\n2\n1 2 3 4\n", "line 1")):
        text.write_text(content)
        with pytest.raises(DataError, match=said):
            read_wider_text(text)
    (tmp_path / "c.json").write_text('{"images": [{}]}')
    with pytest.raises(DataError, match="COCO"):
        read_any_labels(tmp_path / "c.json")
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "a.txt").write_text("0 0.5 0.5\n")
    with pytest.raises(DataError, match="say where"):
        read_any_labels(folder)
    with pytest.raises(DataError, match="3 numbers"):
        read_any_labels(folder, images)
    (folder / "a.xml").write_text("<annotation><object></object>")
    with pytest.raises(DataError, match="VOC"):
        read_any_labels(folder)
    (folder / "a.xml").write_text("<annotation><object><name>face</name></object></annotation>")
    with pytest.raises(DataError, match="<xmin>"):
        read_any_labels(folder)
    with pytest.raises(DataError, match="Cannot read"):
        read_any_labels(tmp_path / "absent.txt")
