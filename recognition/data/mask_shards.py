"""Aligned crops with a mask label: a folder with ``mask.csv`` (shard, file, label, split, source, …) and its zips."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.images import load_image
from facekd.recognition.data.tables import read_table
from facekd.recognition.mask import MASK_STATUSES as STATUSES

TABLE = "mask.csv"
CROP = 112


@dataclass(frozen=True, slots=True)
class MaskSet:
    """Crops of one split.

    Attributes:
        crops: (N, 112, 112, 3) uint8 RGB.
        labels: (N,) int64 index into ``facekd.recognition.mask.STATUSES``.
    """

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def read_masks(folder: Path, split: str) -> MaskSet:
    """Read one split; pictures that the table does not name are not read.

    Raises:
        DataError: the table or a shard is missing or damaged, a label is unknown, or the split is empty.
    """
    path = folder / TABLE
    archives: dict[str, zipfile.ZipFile] = {}
    crops, labels = [], []
    try:
        for row in (row for row in read_table(path, ("shard", "file", "label", "split")) if row["split"] == split):
            if row["label"] not in STATUSES:
                raise DataError(f"{path}: unknown label {row['label']!r}; known: {', '.join(STATUSES)}")
            if row["shard"] not in archives:
                archives[row["shard"]] = zipfile.ZipFile(folder / row["shard"])
            crop = load_image(archives[row["shard"]].read(row["file"]))
            if crop.shape != (CROP, CROP, 3):
                raise DataError(f"{row['shard']}/{row['file']} is {crop.shape}, an aligned crop is 112x112")
            crops.append(crop)
            labels.append(STATUSES.index(row["label"]))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"Cannot read masks from {folder}: {error!r}") from error
    finally:
        for archive in archives.values():
            archive.close()
    if not crops:
        raise DataError(f"{path} has no crop of split {split!r}")
    return MaskSet(np.stack(crops), np.array(labels, np.int64))
