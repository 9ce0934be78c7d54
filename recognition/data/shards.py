"""Aligned crops in zip shards with a table: what ``facekd prepare`` writes and every recognition recipe reads.

A folder holds ``faces.csv`` (columns ``shard, file, identity, split``, others as they come), the zips that it names,
and optionally ``teacher_NAME.npy`` of one teacher or several: one row per row of the table, the embedding of exactly
that crop.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.recognition.data.encoded import CROP, Crops, EncodedCrops, decode_crop, joined_crops
from facekd.recognition.data.layout import TABLE, crop_keys, crops_digest
from facekd.recognition.data.screen_folder import read_screening
from facekd.recognition.data.stored_teacher import StoredEmbeddings, read_teacher
from facekd.recognition.data.tables import read_table

MOST_DECODED = 100_000  # crops, 3.8 GB of memory in each process that trains


@dataclass(frozen=True, slots=True)
class FaceSet:
    """Crops of one split.

    Attributes:
        crops: (N, 112, 112, 3) uint8 RGB, decoded or decoding when indexed.
        labels: (N,) int64 index into ``people``; -1 where nobody knows who it is.
        people: names of the identities, sorted.
        teachers: embeddings (N, T) of other networks, by name, each with a T of its own.
        keys: (N,) uint64 names of the crops: of the folder's digest and the place in it. None where they are of none.
    """

    crops: Crops
    labels: NDArray[np.int64]
    people: tuple[str, ...]
    teachers: Mapping[str, StoredEmbeddings] = field(default_factory=dict)
    keys: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.labels)


def read_faces(
    folders: Sequence[Path],
    split: str,
    *,
    teachers: Sequence[str] = (),
    labelled_only: bool = False,
    held_out: Collection[str] = (),
    names: Mapping[Path, str] | None = None,
    threads: int = 2,
    most_decoded: int = MOST_DECODED,
) -> FaceSet:
    """Read one split of one or more folders as one set; the same identity in two folders is one person.

    The ``train`` split of a folder that was screened is what the screening left of it (see ``screen_folder``).

    Args:
        folders: folders with ``faces.csv``.
        split: value of the table's ``split`` column.
        teachers: names; ``teacher_NAME.npy`` of each folder is read for each.
        labelled_only: leave out crops without an identity.
        held_out: leave out every crop that the table files under one of these people.
        names: of the folders, for the people that a screening made of unlabelled crops; their last names by default.
        threads: threads that decode.
        most_decoded: of more crops than that each is decoded when it is used, again each time.

    Raises:
        DataError: a table, shard or teacher file is missing or does not fit the others, or no crop is left.
    """
    if not folders:
        raise DataError("No folder of faces was given: pass --data DIR (a folder with faces.csv)")
    rows: list[list[tuple[str, str]]] = []
    filed: list[str] = []
    keys: list[NDArray[np.uint64]] = []
    embeddings: dict[str, list[StoredEmbeddings]] = {name: [] for name in teachers}
    for folder in folders:
        table = read_faces_table(folder)
        identities = [row["identity"] for row in table]
        taken = np.array([row["split"] == split and row["identity"] not in held_out for row in table], np.bool_)
        if split == "train" and (screening := read_screening(folder, identities)) is not None:
            identities = screening.identities(identities, names[folder] if names else folder.resolve().name)
            taken &= screening.kept
        chosen = [i for i in np.flatnonzero(taken).tolist() if identities[i] or not labelled_only]
        rows.append([(table[i]["shard"], table[i]["file"]) for i in chosen])
        filed += [identities[i] for i in chosen]
        keys.append(crop_keys(crops_digest(folder), np.array(chosen, np.int64)))
        for name, parts in embeddings.items():
            parts.append(read_teacher(folder, name, len(table)).chosen(chosen))
    if not filed:
        without = f" without the {len(held_out)} people of validation and test" if held_out else ""
        raise DataError(f"No crop of split {split!r} in {', '.join(map(str, folders))}{without}")
    people = tuple(sorted({identity for identity in filed if identity}))
    number = {identity: i for i, identity in enumerate(people)}
    labels = np.array([number.get(identity, -1) for identity in filed], np.int64)
    crops: Crops
    if len(filed) <= most_decoded:
        crops = _decode(
            [(folder / shard, file) for folder, own in zip(folders, rows, strict=True) for shard, file in own], threads
        )
    else:
        crops = joined_crops([_encoded(folder, own) for folder, own in zip(folders, rows, strict=True)])
    taught = {name: join_embeddings(name, parts) for name, parts in embeddings.items()}
    return FaceSet(crops, labels, people, taught, np.concatenate(keys))


def join_embeddings(name: str, parts: Sequence[StoredEmbeddings]) -> StoredEmbeddings:
    """One teacher's embeddings of several folders' crops.

    Raises:
        DataError: they are of different lengths, so that they cannot be one network's.
    """
    try:
        return StoredEmbeddings.joined(parts)
    except ValueError as error:
        raise DataError(f"teacher_{name}.npy differs from folder to folder: {error}; prepare them again") from error


def read_faces_table(folder: Path) -> list[dict[str, str]]:
    """The lines of a folder's ``faces.csv``.

    Raises:
        DataError: as for ``read_table``.
    """
    return read_table(folder / TABLE, ("shard", "file", "identity", "split"))


def table_crops(folder: Path, table: Sequence[dict[str, str]]) -> EncodedCrops:
    """The crops of a table's lines, of whatever split, decoded when they are used.

    Raises:
        DataError: a shard is missing or damaged, or lacks a file.
    """
    return _encoded(folder, [(row["shard"], row["file"]) for row in table])


def _encoded(folder: Path, rows: Sequence[tuple[str, str]]) -> EncodedCrops:
    """The crops of (shard, file) of one folder, decoded when they are used."""
    try:
        archives = {shard: zipfile.ZipFile(folder / shard) for shard in sorted({shard for shard, _ in rows})}
        for shard, file in rows:
            archives[shard].getinfo(file)  # hours before it would be missed
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"Cannot read crops of {folder}: {error}") from error

    def where(place: int) -> str:
        shard, file = rows[place]
        return f"{folder / shard}: {file}"

    def read(place: int) -> bytes:
        shard, file = rows[place]
        try:
            return archives[shard].read(file)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"Cannot read {where(place)}: {error}") from error

    return EncodedCrops(read, len(rows), where)


def _decode(rows: Sequence[tuple[Path, str]], threads: int) -> NDArray[np.uint8]:
    """Decode all crops into one array; zips are read in order, decoding is threaded."""
    crops = np.empty((len(rows), CROP, CROP, 3), np.uint8)
    archives: dict[Path, zipfile.ZipFile] = {}

    def fill(index: int, data: bytes) -> None:
        shard, file = rows[index]
        crops[index] = decode_crop(data, f"{shard}: {file}")

    try:
        with ThreadPoolExecutor(threads) as pool:
            pending = []
            for index, (shard, file) in enumerate(rows):
                if shard not in archives:
                    archives[shard] = zipfile.ZipFile(shard)
                pending.append(pool.submit(fill, index, archives[shard].read(file)))
                if len(pending) == 1024:  # bounds the bytes that wait for a decoder
                    for future in pending:
                        future.result()
                    pending.clear()
            for future in pending:
                future.result()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"Cannot read crops: {error}") from error
    finally:
        for archive in archives.values():
            archive.close()
    return crops
