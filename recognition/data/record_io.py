"""InsightFace's training sets (``train.rec`` with ``train.idx``: MS1MV2, MS1MV3, Glint360K, …), read without MXNet.

A record file is a row of parts: a magic number, a word with the part's kind (3 bits) and length (29 bits), the bytes,
and padding to four bytes. Where the payload itself holds the magic number at a multiple of four, the writer leaves it
out and starts a new part; kinds 1, 2, 3 are the first, a middle and the last of such parts, kind 0 is a whole record.
A picture's payload starts with ``(flag, label, id, id2)``; with a flag above 0 that many float32 labels follow. The
record of key 0 in such a set is no picture: its two labels say which keys are pictures (1 up to the first) and which
are lists of one person's pictures (from the first up to the second).
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.recognition.data.encoded import EncodedCrops
from facekd.recognition.data.shards import FaceSet

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_PART = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_FIRST_LABEL = struct.Struct("<f")
_LENGTH_BITS = 29
WHOLE, FIRST, MIDDLE, LAST = range(4)
EXACT, NEAR = 2**24, 8  # up to where a float32 counts exactly, and how far off it is up to 2^27


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a picture.

    Attributes:
        labels: one number, or as many as the flag says.
        payload: the encoded picture; empty for the records that describe the set.
    """

    labels: tuple[float, ...]
    payload: bytes


class RecordFile:
    """Records by key, read when they are asked for; may be used from several threads.

    Args:
        records: the ``.rec`` file.
        index: its ``.idx`` file, lines of ``key<TAB>offset``; beside the records by default.

    Raises:
        DataError: a file cannot be read, or the index points outside the records.
    """

    def __init__(self, records: str | os.PathLike[str], index: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(records)
        self.keys, self._offsets = _read_index(Path(index) if index is not None else self.path.with_suffix(".idx"))
        try:
            with self.path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            raise DataError(f"Cannot read the records {self.path}: {error}") from error
        beyond = int(self._offsets.max())
        if beyond + _PART.size > len(self._bytes):
            raise DataError(
                f"{self.path} has {len(self._bytes)} bytes, but its index points to byte {beyond}: copy it again"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: int) -> bool:
        place = int(np.searchsorted(self.keys, key))
        return place < len(self.keys) and int(self.keys[place]) == key

    def close(self) -> None:
        """Let go of the file."""
        self._bytes.close()

    def read_raw(self, key: int) -> bytes:
        """The bytes of a record, its parts joined.

        Raises:
            DataError: no such key, or the file is damaged or cut off there.
        """
        kind, part, offset = self._part(key, self._offset(key))
        if kind == WHOLE:
            return part
        if kind != FIRST:
            raise DataError(f"{self.path}: record {key} starts with a part of kind {kind}: the index does not fit it")
        parts = [part]
        while kind != LAST:
            kind, part, offset = self._part(key, offset)
            if kind not in (MIDDLE, LAST):
                raise DataError(f"{self.path}: record {key} goes on with a part of kind {kind}: the file is damaged")
            parts.append(part)
        return _MAGIC_BYTES.join(parts)

    def read(self, key: int) -> Record:
        """A record's labels and picture.

        Raises:
            DataError: as ``read_raw``, or the record is too short for its header.
        """
        return _unpack(self.read_raw(key), f"{self.path}: record {key}")

    def label(self, key: int) -> float:
        """The first label of a record, without its picture being copied."""
        offset = self._offset(key)
        magic, word = _PART.unpack_from(self._bytes, offset)
        start = offset + _PART.size
        length = word & ((1 << _LENGTH_BITS) - 1)
        short = length < _HEADER.size + 4 or start + length > len(self._bytes)
        if magic != MAGIC or word >> _LENGTH_BITS != WHOLE or short:
            return self.read(key).labels[0]  # in parts, or damaged: only the whole record tells
        flag, label, _, _ = _HEADER.unpack_from(self._bytes, start)
        return float(_FIRST_LABEL.unpack_from(self._bytes, start + _HEADER.size)[0]) if flag else float(label)

    def _offset(self, key: int) -> int:
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or int(self.keys[place]) != key:
            raise DataError(f"{self.path} has no record {key}")
        return int(self._offsets[place])

    def _part(self, key: int, offset: int) -> tuple[int, bytes, int]:
        """Kind and bytes of the part at an offset, and where the next one starts."""
        if offset + _PART.size > len(self._bytes):
            raise DataError(f"{self.path} ends within record {key}: copy it again")
        magic, word = _PART.unpack_from(self._bytes, offset)
        if magic != MAGIC:
            raise DataError(f"{self.path}: no record starts at byte {offset} (key {key}): the index does not fit it")
        kind, length = word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)
        start = offset + _PART.size
        if start + length > len(self._bytes):
            raise DataError(f"{self.path} ends within record {key}: copy it again")
        return kind, self._bytes[start : start + length], start + length + (-length) % 4


def read_record_faces(folder: Path, name: str = "train") -> FaceSet:
    """``NAME.rec`` and ``NAME.idx`` of a folder as a set of faces, crops decoded as they are used.

    People are named by their number in the set. Only the labels are read at once: five million take seconds.

    Raises:
        DataError: the files cannot be read or contradict each other, or hold no picture.
    """
    file = RecordFile(folder / f"{name}.rec")
    keys = _picture_keys(file)
    if not len(keys):
        raise DataError(f"{file.path} holds no picture")
    numbers = np.array([int(file.label(int(key))) for key in keys], np.int64)
    known, labels = np.unique(numbers, return_inverse=True)

    def payload(place: int) -> bytes:
        return file.read(int(keys[place])).payload

    def where(place: int) -> str:
        return f"{file.path}: record {keys[place]}"

    people = tuple(str(number) for number in known)
    return FaceSet(EncodedCrops(payload, len(keys), where), labels.astype(np.int64), people)


def _picture_keys(file: RecordFile) -> NDArray[np.int64]:
    """Which keys are pictures: as record 0 says, or all where there is no such record."""
    if 0 not in file:
        return file.keys
    head = file.read(0)
    if head.payload or len(head.labels) < 2:
        return file.keys
    end = int(head.labels[0])
    if end > EXACT:  # labels are float32: the first record without a picture is only near
        nearby = range(max(end - NEAR, 1), end + NEAR + 1)
        end = next((key for key in nearby if key not in file or not file.read(key).payload), end)
    keys = np.arange(1, end, dtype=np.int64)
    missing = np.setdiff1d(keys, file.keys)
    if len(missing):
        raise DataError(f"{file.path}: record 0 speaks of {len(keys)} pictures, but the index lacks {missing[0]}")
    return keys


def _read_index(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys in rising order and their offsets."""
    try:
        text = path.read_text(encoding="ascii")
        table = np.array(text.split(), np.int64).reshape(-1, 2)
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read the index {path}: {error}") from error
    if not len(table) or (table < 0).any():
        raise DataError(f"The index {path} is empty or has negative numbers; wanted lines of key and offset")
    order = np.argsort(table[:, 0], kind="stable")
    return table[order, 0], table[order, 1]


def _unpack(data: bytes, where: str) -> Record:
    if len(data) < _HEADER.size:
        raise DataError(f"{where} has {len(data)} bytes, too few for its header: the file is damaged")
    flag, label, _, _ = _HEADER.unpack_from(data)
    end = _HEADER.size + 4 * flag
    if end > len(data):
        raise DataError(f"{where} speaks of {flag} labels, but has {len(data)} bytes: the file is damaged")
    labels = struct.unpack_from(f"<{flag}f", data, _HEADER.size) if flag else (label,)
    return Record(labels, data[end:])


class RecordWriter:
    """Writes record files: for tests, and to hand sets to programs that read no others.

    Args:
        records: the ``.rec`` file; its ``.idx`` is written beside it.
    """

    def __init__(self, records: Path) -> None:
        self._file = records.open("wb")
        self._index = records.with_suffix(".idx").open("w", encoding="ascii")

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._index.close()

    def add(self, key: int, labels: Sequence[float], payload: bytes = b"") -> None:
        """Store a picture, or a describing record, under a key. One label is stored as InsightFace does, in place."""
        if len(labels) == 1:
            head = _HEADER.pack(0, labels[0], key, 0)
        else:
            head = _HEADER.pack(len(labels), 0.0, key, 0) + struct.pack(f"<{len(labels)}f", *labels)
        self.add_raw(key, head + payload)

    def add_raw(self, key: int, data: bytes) -> None:
        """Store bytes under a key, cut where they hold the magic number at a multiple of four."""
        self._index.write(f"{key}\t{self._file.tell()}\n")
        parts = _cut(data)
        for place, part in enumerate(parts):
            kind = WHOLE if len(parts) == 1 else FIRST if place == 0 else LAST if place == len(parts) - 1 else MIDDLE
            self._file.write(_PART.pack(MAGIC, kind << _LENGTH_BITS | len(part)) + part + b"\0" * (-len(part) % 4))


def _cut(data: bytes) -> list[bytes]:
    parts, start, found = [], 0, data.find(_MAGIC_BYTES)
    while found >= 0:
        if found % 4 == 0:
            parts.append(data[start:found])
            start = found + 4
            found = data.find(_MAGIC_BYTES, start)
        else:
            found = data.find(_MAGIC_BYTES, found + 1)
    return [*parts, data[start:]]
