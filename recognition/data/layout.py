"""Which layout a folder of crops has, and a digest that tells when its crops are no longer the same."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.images import list_images
from facekd.recognition.data.tables import read_table

TABLE = "faces.csv"
RECORDS, INDEX = "train.rec", "train.idx"


class Layout(StrEnum):
    """What a folder of crops may look like."""

    table = TABLE
    records = RECORDS
    tars = "*.tar"
    people = "a folder a person"


def layout_of(folder: Path) -> Layout:
    """The layout of a folder.

    Raises:
        DataError: it has none that is known.
    """
    if (folder / TABLE).is_file():
        return Layout.table
    if (folder / RECORDS).is_file():
        return Layout.records
    if next(folder.glob("*.tar"), None) is not None:
        return Layout.tars
    if folder.is_dir() and any(path.is_dir() for path in folder.iterdir()):
        return Layout.people
    layouts = f"{TABLE} (facekd prepare makes it), {RECORDS} with {INDEX}, *.tar, or a folder a person"
    raise DataError(f"{folder} holds no crops to train on; wanted {layouts}")


def crops_digest(folder: Path) -> str:
    """16 hexadecimal digits over which crops a folder holds, in which order: names and sizes of files, no pixels.

    Who is on them is not part of it: a corrected name does not make a teacher's embeddings wrong.

    Raises:
        DataError: the folder has no known layout, its table is none, or a file that it names is missing.
    """
    digest = hashlib.sha256()
    layout = layout_of(folder)
    try:
        if layout is Layout.table:
            rows = [(row["shard"], row["file"]) for row in read_table(folder / TABLE, ("shard", "file"))]
            digest.update("\n".join(f"{shard}|{file}" for shard, file in rows).encode())
            files = [folder / shard for shard in sorted({shard for shard, _ in rows})]
        elif layout is Layout.records:
            digest.update((folder / INDEX).read_bytes())
            files = [folder / RECORDS]
        else:
            files = sorted(folder.glob("*.tar")) if layout is Layout.tars else list_images(folder)
        for file in files:
            digest.update(f"\n{file.relative_to(folder)}|{file.stat().st_size}".encode())
    except OSError as error:
        raise DataError(f"cannot read the crops of {folder}: {error}") from error
    return digest.hexdigest()[:16]


def crop_keys(digest: str, rows: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Numbers that name crops by the ``crops_digest`` of their folder and their places in it."""
    return np.uint64(int(digest, 16)) + rows.astype(np.uint64)
