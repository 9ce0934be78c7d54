"""Labels of faces in the other common forms: WIDER FACE's text, Pascal VOC, COCO, YOLO.

All give `LabelledPhotograph`, so that training and evaluation know one form only. `read_any_labels` tells them apart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from facekd.detection.labels import LabelledPhotograph, read_labels
from facekd.errors import DataError, ImageError
from facekd.images import list_images, load_image

Faces = Iterable[tuple[NDArray[np.float64], NDArray[np.float64] | None, bool]]


def read_any_labels(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    classes: Collection[str] | None = None,
) -> list[LabelledPhotograph]:
    """Read labels in whatever of the known forms they are.

    Args:
        path: a ``.txt`` in RetinaFace's or WIDER FACE's form, a COCO ``.json``, a folder of VOC ``.xml``, or a folder
            of YOLO ``.txt``.
        images: the folder of photographs; YOLO needs it, since its numbers are shares of their sizes.
        classes: names (VOC, COCO) or numbers (YOLO) of the classes that are faces; None takes all.

    Raises:
        DataError: the form is none of these, or the labels are not in it.
    """
    path = Path(path)
    if path.is_dir():
        if any(path.rglob("*.xml")):
            return read_voc(path, classes)
        if images is None:
            raise DataError(f"{path} holds YOLO labels, if any: say where their photographs are")
        return read_yolo(path, images, classes)
    if path.suffix.lower() == ".json":
        return read_coco(path, classes)
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the label file {path}: {error}") from error
    return read_labels(path) if first.lstrip().startswith("#") or not first.strip() else read_wider_text(path)


def read_wider_text(path: str | os.PathLike[str]) -> list[LabelledPhotograph]:
    """WIDER FACE's ``wider_face_…_bbx_gt.txt``: name, number of faces, then ``x y w h`` and six attributes a face.

    Faces that it calls invalid (the fourth attribute) and empty boxes are ignore regions. Sizes are not in it.

    Raises:
        DataError: the file cannot be read or is not in this form; says which line.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the label file {path}: {error}") from error
    photographs, at = [], 0
    while at < len(lines):
        if not lines[at]:
            at += 1
            continue
        name = lines[at]
        try:
            count = int(lines[at + 1])
            # A photograph without faces is followed by one line of zeros all the same.
            rows = [[float(word) for word in line.split()] for line in lines[at + 2 : at + 2 + max(count, 1)]]
            if count < 0 or len(rows) != max(count, 1):
                raise ValueError(f"{count} faces announced, {len(rows)} lines follow")
            table = np.array(rows, np.float64).reshape(len(rows), -1)[:count]
        except (IndexError, ValueError) as error:
            raise DataError(f"{path}, line {at + 1}: wanted a name, a count and as many faces ({error})") from error
        if table.shape[1] not in (4, 10):
            raise DataError(f"{path}, line {at + 3}: {table.shape[1]} numbers; a face has 4 or 10")
        invalid = table[:, 7] > 0 if table.shape[1] == 10 else np.zeros(len(table), bool)
        boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
        faces = ((box, None, bool(flag)) for box, flag in zip(boxes, invalid, strict=True))
        photographs.append(_photograph(name, 0, 0, faces))
        at += 2 + max(count, 1)
    return photographs


def read_voc(folder: str | os.PathLike[str], classes: Collection[str] | None = None) -> list[LabelledPhotograph]:
    """Pascal VOC: one ``.xml`` a photograph; objects that it calls difficult are ignore regions.

    VOC counts pixels from 1 and includes the last one: a box from 1 to 10 becomes one from 0 to 10.

    Raises:
        DataError: a file is not in this form.
    """
    photographs = []
    for path in sorted(Path(folder).rglob("*.xml")):
        try:
            root = ElementTree.parse(path).getroot()
            faces = []
            for item in root.iter("object"):
                if classes is None or item.findtext("name", "") in classes:
                    box = np.array([float(_text(item, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")])
                    faces.append((box - (1, 1, 0, 0), None, item.findtext("difficult", "0").strip() == "1"))
            width, height = (int(float(root.findtext(f"size/{side}", "0"))) for side in ("width", "height"))
            photographs.append(_photograph(_text(root, "filename"), width, height, faces))
        except (OSError, ElementTree.ParseError, ValueError) as error:
            raise DataError(f"{path} is not in Pascal VOC's form: {error}") from error
    return photographs


def _text(item: ElementTree.Element, path: str) -> str:
    text = item.findtext(path)
    if text is None:
        raise ValueError(f"there is no <{path.rpartition('/')[2]}>")
    return text.strip()


def read_coco(path: str | os.PathLike[str], classes: Collection[str] | None = None) -> list[LabelledPhotograph]:
    """COCO's ``instances`` or ``person_keypoints`` form; crowds are ignore regions.

    Five keypoints ``x y visible`` become landmarks if each is labelled (visible > 0).

    Raises:
        DataError: the file cannot be read or is not in this form.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        wanted = {c["id"] for c in content.get("categories", []) if classes is None or c["name"] in classes}
        faces: dict[int, list[tuple[NDArray[np.float64], NDArray[np.float64] | None, bool]]] = {
            image["id"]: [] for image in content["images"]
        }
        for item in content["annotations"]:
            if classes is None or item["category_id"] in wanted:
                x, y, width, height = (float(value) for value in item["bbox"])
                points = np.array(item.get("keypoints", []), np.float64).reshape(-1, 3)
                known = len(points) == 5 and bool((points[:, 2] > 0).all())
                box = np.array([x, y, x + width, y + height])
                faces[item["image_id"]].append((box, points[:, :2] if known else None, bool(item.get("iscrowd", 0))))
        return [
            _photograph(image["file_name"], int(image.get("width", 0)), int(image.get("height", 0)), faces[image["id"]])
            for image in content["images"]
        ]
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not in COCO's form: {error!r}") from error


def read_yolo(
    folder: str | os.PathLike[str], images: str | os.PathLike[str], classes: Collection[str] | None = None
) -> list[LabelledPhotograph]:
    """YOLO: beside each photograph's name a ``.txt`` with ``class cx cy w h`` in shares of the photograph's size.

    Five landmarks may follow, as ``x y`` or ``x y visible``. A photograph without a label file has no face.

    Raises:
        DataError: a file is not in this form, or a photograph cannot be read.
    """
    photographs = []
    for image in list_images(images):
        relative = image.relative_to(images)
        path = Path(folder) / relative.with_suffix(".txt")
        try:
            height, width = load_image(image).shape[:2]
            lines = path.read_text(encoding="utf-8-sig").split("\n") if path.is_file() else []
            rows = [line.split() for line in lines if line.strip()]
            faces = [_yolo_face(row, width, height) for row in rows if classes is None or row[0] in classes]
        except (OSError, UnicodeDecodeError, ValueError, ImageError) as error:
            raise DataError(f"{path} is not in YOLO's form, or its photograph cannot be read: {error}") from error
        photographs.append(_photograph(relative.as_posix(), width, height, faces))
    return photographs


def _yolo_face(row: list[str], width: int, height: int) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, bool]:
    values = np.array(row[1:], np.float64)
    if len(values) not in (4, 14, 19):
        raise ValueError(f"{len(row)} numbers; a face has 5, 15 or 20")
    size = np.array([width, height], np.float64)
    centre, extent = values[:2] * size, values[2:4] * size
    points = None
    if len(values) > 4:
        table = values[4:].reshape(5, -1)
        known = bool((table[:, :2] >= 0).all()) and (table.shape[1] == 2 or bool((table[:, 2] > 0).all()))
        points = table[:, :2] * size if known else None
    return np.concatenate([centre - extent / 2, centre + extent / 2]), points, False


def _photograph(name: str, width: int, height: int, faces: Faces) -> LabelledPhotograph:
    listed = list(faces)
    boxes = np.array([box for box, _, _ in listed], np.float32).reshape(-1, 4)
    unknown = np.full((5, 2), np.nan)
    landmarks = np.array([unknown if points is None else points for _, points, _ in listed], np.float32)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    ignore = np.array([flag for _, _, flag in listed], bool) | empty
    return LabelledPhotograph(name, width, height, boxes, landmarks.reshape(-1, 5, 2), ignore)
