"""Labels of face photographs in RetinaFace's text form, for training and for evaluation alike.

The form (Deng et al. 2019, "RetinaFace", https://arxiv.org/abs/1905.00641, the label files of its authors), one block a
photograph::

    # 00012.webp 544 363
    x y w h  lx ly 0.0  lx ly 0.0  lx ly 0.0  lx ly 0.0  lx ly 0.0  c

Width and height may be missing, as in the authors' own files, and so may everything after the box, as in their
validation labels. A photograph without lines has no face: it is kept, because false alarms are counted there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError

BOX_COLUMNS = 4
FULL_COLUMNS = 20


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPhotograph:
    """What people (or a detector) wrote about one photograph.

    Attributes:
        name: file name as the label file gives it, with "/" between folders.
        width, height: size in pixels; 0 where the label file does not say.
        boxes: (N, 4) float32, ``x1, y1, x2, y2`` in pixels; may reach beyond the picture's edges.
        landmarks: (N, 5, 2) float32: left eye, right eye, nose, left and right mouth corner, as seen in the picture;
            NaN where unknown, for all five points of a face together.
        ignore: (N,) bool: an ignore region, neither a face to be found nor a false alarm when found.
    """

    name: str
    width: int
    height: int
    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    ignore: NDArray[np.bool_]


def read_labels(path: str | os.PathLike[str]) -> list[LabelledPhotograph]:
    """Read a whole label file, in the order of the file.

    Args:
        path: a text file in RetinaFace's form (see the module's text).

    Returns:
        One `LabelledPhotograph` a block. A line whose last column is negative, or whose box is empty, is an ignore
        region.

    Raises:
        DataError: the file cannot be read, a line is not in the form, or a photograph occurs twice; says which line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the label file {path}: {error}") from error
    photographs: list[LabelledPhotograph] = []
    seen: set[str] = set()
    for number, header, rows in _blocks(text, path):
        name, width, height = _parse_header(header, path, number)
        if name in seen:
            raise DataError(
                f"{path}, line {number}: the photograph {name!r} occurs twice; join its lines in one block."
            )
        seen.add(name)
        photographs.append(_photograph(name, width, height, rows))
    return photographs


def _blocks(text: str, path: Path) -> Iterator[tuple[int, str, list[list[float]]]]:
    """Yield (line number of the header, header without "#", rows of 4 or 20 numbers)."""
    header: str | None = None
    start = 0
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line:
            continue
        if line.startswith("#"):
            if header is not None:
                yield start, header, rows
            header, start, rows = line[1:].strip(), number, []
            continue
        if header is None:
            raise DataError(f"{path}, line {number}: a face before the first '# name width height' line.")
        rows.append(_parse_row(line, path, number))
    if header is not None:
        yield start, header, rows


def _parse_header(header: str, path: Path, number: int) -> tuple[str, int, int]:
    parts = header.rsplit(maxsplit=2)
    if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
        return parts[0], int(parts[1]), int(parts[2])
    if not header:
        raise DataError(f"{path}, line {number}: '#' must be followed by the photograph's file name.")
    return header, 0, 0


def _parse_row(line: str, path: Path, number: int) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}; a line holds numbers only.") from error
    if len(values) not in (BOX_COLUMNS, FULL_COLUMNS):
        raise DataError(
            f"{path}, line {number}: {len(values)} numbers; a face has {BOX_COLUMNS} (x y w h) or {FULL_COLUMNS} "
            "(x y w h, five times x y flag, and the last column)."
        )
    if not np.isfinite(values).all():
        raise DataError(f"{path}, line {number}: a number is not finite: {line!r}")
    return values


def _photograph(name: str, width: int, height: int, rows: list[list[float]]) -> LabelledPhotograph:
    # Lines with a box only are faces without landmarks.
    unknown = [-1.0] * 15
    table = np.array(
        [row if len(row) == FULL_COLUMNS else [*row, *unknown, 1.0] for row in rows], dtype=np.float64
    ).reshape(-1, FULL_COLUMNS)
    corner, extent = table[:, 0:2], table[:, 2:4]
    points = table[:, 4:19].reshape(-1, 5, 3)
    # An unknown landmark is (-1, -1, -1): its flag is negative. The authors' flags are 0 (visible) and 1 (hidden).
    unknown_points = (points[:, :, 2] < 0).any(axis=1)
    landmarks = points[:, :, :2].astype(np.float32)
    landmarks[unknown_points] = np.nan
    return LabelledPhotograph(
        name=name,
        width=width,
        height=height,
        boxes=np.concatenate([corner, corner + extent], axis=1).astype(np.float32),
        landmarks=landmarks,
        ignore=(table[:, 19] < 0) | (extent <= 0).any(axis=1),
    )
