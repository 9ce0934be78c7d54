"""Labelled photographs, decoded once and kept in memory at half their size in bytes."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from facekd.detection.labels import LabelledPhotograph, read_labels
from facekd.engine.settings import Section
from facekd.errors import DataError, ImageError
from facekd.images import load_image


class LabelledSource(Section):
    """One collection of labelled photographs.

    Paths are looked for in each data folder of the recipe, in order; see `find_data`.

    Attributes:
        photographs: a zip file or a folder that holds the photographs under the names in ``labels``.
        labels: label file in RetinaFace's form.
        optional: leave the collection out, and say so, when ``photographs`` is in none of the folders.
        table: a CSV with the columns ``file`` and ``source``, which says where each photograph comes from.
        landmarks_by_people: values of ``source`` whose landmarks people placed.
        landmark_weight: what those landmarks count; all others count 1.
    """

    photographs: Path
    labels: Path
    optional: bool = False
    table: Path | None = None
    landmarks_by_people: tuple[str, ...] = ()
    landmark_weight: float = Field(default=2.0, gt=0)


class SourceSettings(LabelledSource):
    """One collection that crops are drawn from.

    Attributes:
        weight: how often photographs of this collection are drawn, relative to the other collections.
        hold_out_every: keep each n-th photograph out of training, to watch by; 0 keeps none out.
        longest_side: larger photographs are shrunk to this many pixels; 0 leaves all as they are.
    """

    weight: float = Field(default=1.0, gt=0)
    hold_out_every: int = Field(default=0, ge=0)
    longest_side: int = Field(default=0, ge=0)


READ_AHEAD = 64  # photographs that are decoded before they are asked for
HALVINGS = 2  # smaller copies of a photograph that are kept: crops that shrink start from the nearest larger one


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Pixels as luma and half-size chroma (NV12), as JPEG and WebP hold them: 1.5 bytes a pixel instead of 3.

    Attributes:
        luma: (H, W) uint8, H and W even.
        chroma: (H/2, W/2, 2) uint8.
    """

    luma: NDArray[np.uint8]
    chroma: NDArray[np.uint8]

    def window(self, x1: int, y1: int, x2: int, y2: int) -> NDArray[np.uint8]:
        """RGB pixels (y2 - y1, x2 - x1, 3) of a window inside the picture; all four numbers must be even."""
        luma = np.ascontiguousarray(self.luma[y1:y2, x1:x2])
        chroma = np.ascontiguousarray(self.chroma[y1 // 2 : y2 // 2, x1 // 2 : x2 // 2])
        return np.asarray(cv2.cvtColorTwoPlane(luma, chroma, cv2.COLOR_YUV2RGB_NV12), np.uint8)

    def halved(self) -> Planes:
        """The picture at half the size; an odd half loses its last row or column."""
        height, width = self.luma.shape[0] // 4 * 4, self.luma.shape[1] // 4 * 4
        luma = cv2.resize(self.luma[:height, :width], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        colour = self.chroma[: height // 2, : width // 2]
        chroma = cv2.resize(colour, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
        return Planes(np.asarray(luma, np.uint8), np.asarray(chroma, np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class Photograph:
    """A decoded photograph with its labels.

    Attributes:
        levels: the pixels at full, half and quarter size (as far as they are not too small to halve).
        boxes: (N, 4) float32 ``x1, y1, x2, y2``, in pixels of the full size.
        landmarks: (N, 5, 2) float32, NaN where unknown.
        ignore: (N,) bool: regions that are neither face nor background.
        landmark_weight: what a face's landmarks count in the loss.
    """

    levels: tuple[Planes, ...]
    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    ignore: NDArray[np.bool_]
    landmark_weight: float

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.levels[0].luma.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.levels[0].luma.shape[1])


def make_photograph(
    rgb: NDArray[np.uint8], label: LabelledPhotograph, landmark_weight: float = 1.0, longest_side: int = 0
) -> Photograph:
    """Shrink where asked, crop to even sides, split luma from chroma, and keep smaller copies.

    Args:
        rgb: (H, W, 3) uint8.
        label: its boxes, landmarks and ignore regions, in pixels of ``rgb``.
        landmark_weight: see `Photograph`.
        longest_side: 0, or the largest side that is kept, in pixels.
    """
    height, width = rgb.shape[:2]
    factor = min(1.0, longest_side / max(height, width)) if longest_side else 1.0
    if factor < 1.0:
        rgb = np.asarray(cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
        height, width = rgb.shape[:2]
    height, width = height // 2 * 2, width // 2 * 2
    even = np.ascontiguousarray(rgb[:height, :width])
    planes = np.asarray(cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420), np.uint8).reshape(-1)
    area = height * width
    half = (height // 2, width // 2)
    u, v = planes[area : area + area // 4].reshape(half), planes[area + area // 4 :].reshape(half)
    levels = [Planes(planes[:area].reshape(height, width).copy(), np.stack([u, v], axis=2))]
    while len(levels) <= HALVINGS and min(levels[-1].luma.shape) >= 64:
        levels.append(levels[-1].halved())
    return Photograph(
        levels=tuple(levels),
        boxes=label.boxes * np.float32(factor),
        landmarks=label.landmarks * np.float32(factor),
        ignore=label.ignore,
        landmark_weight=landmark_weight,
    )


def find_data(path: Path, folders: Sequence[Path]) -> Path | None:
    """The first of ``folder / path`` that exists; an absolute path stands for itself; None if there is none."""
    candidates = [folder / path for folder in folders] or [path]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def require_data(path: Path, folders: Sequence[Path]) -> Path:
    """`find_data`, where nothing found is an error.

    Raises:
        DataError: it lists where the path was looked for.
    """
    found = find_data(path, folders)
    if found is None:
        where = ", ".join(str(folder) for folder in folders) or "the working folder"
        raise DataError(f"{path} is in none of the data folders ({where}): name the folder that holds it with --data")
    return found


def load_source(
    settings: SourceSettings, folders: Sequence[Path], say: Callable[[str], None], threads: int = 2
) -> tuple[list[Photograph], list[tuple[NDArray[np.uint8], LabelledPhotograph]]]:
    """Read a collection.

    Args:
        settings: where it is and how it is to be read.
        folders: where its paths are looked for.
        say: called with one line about what was left out.
        threads: decoders at work at once.

    Returns:
        The photographs to train on; and those held out, as RGB pixels with labels.

    Raises:
        DataError: labels or photographs are missing (unless optional), or none of them can be read.
    """
    training: list[Photograph] = []
    held_out: list[tuple[NDArray[np.uint8], LabelledPhotograph]] = []
    for number, rgb, label, weight in read_source(settings, folders, say, threads):
        if settings.hold_out_every and number % settings.hold_out_every == settings.hold_out_every - 1:
            held_out.append((rgb, label))
        else:
            training.append(make_photograph(rgb, label, weight, settings.longest_side))
    return training, held_out


def read_source(
    settings: LabelledSource, folders: Sequence[Path], say: Callable[[str], None], threads: int = 2
) -> Iterator[tuple[int, NDArray[np.uint8], LabelledPhotograph, float]]:
    """The photographs of a collection as they lie there, one after the other.

    Args:
        settings, folders, say, threads: as for `load_source`.

    Yields:
        The photograph's number among the labels, its RGB pixels, its labels, and what its landmarks count.

    Raises:
        DataError: labels or photographs are missing (unless optional), or none of them can be read.
    """
    if settings.optional and find_data(settings.photographs, folders) is None:
        say(f"{settings.photographs} is in none of the data folders: training goes on without this collection")
        return
    labels = read_labels(require_data(settings.labels, folders))
    by_people = _photographs_by_people(settings, folders)
    read = _opener(require_data(settings.photographs, folders))

    def load(label: LabelledPhotograph) -> NDArray[np.uint8] | None:
        try:
            return load_image(read(label.name))
        except (ImageError, KeyError, OSError):
            return None

    missing: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(labels), READ_AHEAD):
            block = labels[start : start + READ_AHEAD]
            for number, (label, rgb) in enumerate(zip(block, pool.map(load, block), strict=True), start):
                if rgb is None:
                    missing.append(label.name)
                else:
                    yield number, rgb, label, settings.landmark_weight if label.name in by_people else 1.0
    if missing:
        say(f"{len(missing)} of {len(labels)} photographs of {settings.photographs} unreadable: {missing[:3]}, …")
    if len(missing) == len(labels):
        raise DataError(f"No photograph of {settings.labels} could be read from {settings.photographs}")


def read_photographs(photographs: Path, labels: Sequence[LabelledPhotograph]) -> list[NDArray[np.uint8]]:
    """The RGB pixels of labelled photographs in a zip file or folder, all of which must be readable."""
    read = _opener(photographs)
    return [load_image(read(label.name)) for label in labels]


def _opener(photographs: Path) -> Callable[[str], bytes]:
    if photographs.is_dir():
        return lambda name: (photographs / name).read_bytes()
    try:
        archive = zipfile.ZipFile(photographs)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{photographs} is neither a folder nor a zip file: {error}") from error
    return archive.read


def _photographs_by_people(settings: LabelledSource, folders: Sequence[Path]) -> set[str]:
    if settings.table is None:
        return set()
    table = require_data(settings.table, folders)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return {row["file"] for row in csv.DictReader(file) if row["source"] in settings.landmarks_by_people}
    except (OSError, KeyError) as error:
        raise DataError(f"Cannot read {table}: {error!r}; wanted a CSV with file and source") from error
