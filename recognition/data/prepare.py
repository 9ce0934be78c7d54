"""Turn a folder of people's folders into shards of aligned crops, and say what was left out and why."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facekd.detection.detector import Detection, Detector
from facekd.errors import DataError, ImageError
from facekd.images import list_images, load_image
from facekd.recognition.align import align_face
from facekd.recognition.data.identity_folders import identity_of

COLUMNS = ("shard", "file", "identity", "split", "source", "age", "gender", "ethnicity", "box_width", "sharpness")
SHARD_BYTES = 54 << 20


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """What is kept.

    Attributes:
        min_face_px: shortest side of a face's box; smaller ones are left out.
        min_sharpness: variance of the crop's Laplacian below which it is left out; 0 keeps all.
        val_share: share of the people (not of the crops) that goes to the ``val`` split. A person's split follows
            from the name alone, so that preparing a grown folder again moves nobody.
        quality: WebP quality of the stored crops.
    """

    min_face_px: float = 36.0
    min_sharpness: float = 0.0
    val_share: float = 0.1
    quality: int = 92


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What became of the photographs.

    Attributes:
        crops: how many crops were written.
        people: how many identities they have.
        left_out: ``(path, reason)`` of every photograph that gave no crop.
    """

    crops: int
    people: int
    left_out: tuple[tuple[str, str], ...]


def prepare(
    folder: Path,
    out: Path,
    detector: Detector,
    settings: PrepareSettings | None = None,
    progress: Callable[[Iterable[Path]], Iterator[Path]] = iter,
) -> PrepareReport:
    """Detect, align and cut every photograph of a folder of people's folders.

    Of a person's photograph the largest face is taken; of one without identity, every face. ``out`` gets
    ``faces.csv``, ``train-0.zip`` … (112x112 WebP) and ``left_out.csv``.

    Args:
        folder: ``folder/PERSON/*.jpg``; pictures directly in it, or in ``_unlabelled``, are of nobody in particular.
        out: a new or empty folder.
        detector: finds the faces.
        settings: what is kept.
        progress: wraps the photographs, for a progress bar.

    Raises:
        DataError: ``out`` is not empty, or ``folder`` holds no photograph.
    """
    settings = settings or PrepareSettings()
    photographs = list_images(folder)
    if not photographs:
        raise DataError(f"{folder} holds no photograph")
    left_out: list[tuple[str, str]] = []
    people: set[str] = set()
    with Shards(out, settings.quality) as shards:
        for path in progress(photographs):
            relative = path.relative_to(folder)
            identity = identity_of(relative)
            try:
                image = load_image(path)
            except ImageError as error:
                left_out.append((str(relative), str(error)))
                continue
            faces = detector.detect(image)
            faults = [] if faces else ["no face found"]
            before = shards.count
            for face in _chosen(faces, bool(identity)):
                crop = align_face(image, face.landmarks)
                sharpness = float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
                fault = fault_of(face.box, sharpness, settings)
                if fault:
                    faults.append(fault)
                    continue
                width = float(face.box[2] - face.box[0])
                split = split_of(identity, settings.val_share)
                shards.add(crop, (identity, split, folder.name, "", "", "", f"{width:.1f}", f"{sharpness:.1f}"))
                people |= {identity} - {""}
            if shards.count == before:
                left_out.append((str(relative), "; ".join(faults)))
        shards.note_left_out(left_out)
    return PrepareReport(shards.count, len(people), tuple(left_out))


def split_of(identity: str, val_share: float) -> str:
    """``train`` or ``val``, by a digest of the name; crops without identity are always for training."""
    if not identity:
        return "train"
    digest = hashlib.sha256(identity.encode()).digest()
    return "val" if int.from_bytes(digest[:4], "big") / 2**32 < val_share else "train"


def _chosen(faces: list[Detection], labelled: bool) -> list[Detection]:
    """All faces of a photograph of nobody in particular; the largest one of a person's."""
    if not labelled or not faces:
        return faces
    return [max(faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))]


def fault_of(box: NDArray[np.float32], sharpness: float, settings: PrepareSettings) -> str:
    """Why a face with this box (4,) and sharpness is left out; empty if it is kept."""
    side = float(min(box[2:] - box[:2]))
    if side < settings.min_face_px:
        return f"face of {side:.0f} px, under {settings.min_face_px:.0f}"
    if sharpness < settings.min_sharpness:
        return f"sharpness {sharpness:.0f}, under {settings.min_sharpness:.0f}"
    return ""


class Shards:
    """Writes crops into zips of bounded size, and their table.

    Args:
        folder: a new or empty folder.
        quality: WebP quality of the crops.

    Raises:
        DataError: the folder is not empty.
    """

    def __init__(self, folder: Path, quality: int) -> None:
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder} is not empty; name a new folder, so that nothing is overwritten")
        folder.mkdir(parents=True, exist_ok=True)
        self.count = 0
        self._folder = folder
        self._quality = quality
        self._stream = (folder / "faces.csv").open("w", newline="", encoding="utf-8")
        self._table = csv.writer(self._stream)
        self._table.writerow(COLUMNS)
        self._archive: zipfile.ZipFile | None = None
        self._name = ""
        self._number = 0
        self._bytes = 0

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        if self._archive is not None:
            self._archive.close()

    def add(self, crop: NDArray[np.uint8], columns: tuple[str, ...]) -> None:
        """Store a crop."""
        buffer = io.BytesIO()
        Image.fromarray(crop).save(buffer, "WEBP", quality=self._quality)
        data = buffer.getvalue()
        if self._archive is None or self._bytes + len(data) > SHARD_BYTES:
            if self._archive is not None:
                self._archive.close()
            self._name = f"train-{self._number}.zip"
            self._archive = zipfile.ZipFile(self._folder / self._name, "w", zipfile.ZIP_STORED)
            self._number += 1
            self._bytes = 0
        file = f"{self.count:06d}.webp"
        self._archive.writestr(file, data)
        self._table.writerow((self._name, file, *columns))
        self._bytes += len(data)
        self.count += 1

    def note_left_out(self, left_out: Iterable[tuple[str, str]]) -> None:
        """Write ``left_out.csv``: (path, reason) of what gave no crop."""
        with (self._folder / "left_out.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("path", "reason"), *left_out])
