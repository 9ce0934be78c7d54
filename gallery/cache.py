"""The index of a large gallery on disk, so that opening need not read every template.

``GALLERY.index`` holds a line of JSON of fixed length (which gallery, up to which change) and sealed records, encrypted
where the gallery is, with checksums where it is not: one that says how the codes were made and which id each piece
begins with, then the pieces, of so many rows each: ids, rising, and codes. Whatever does not fit or open is ignored and
made anew.

It stays while people come and go: the next opening follows the changes since. But codes of somebody who was removed
must not outlive the removal, so :func:`erase` overwrites them where they lie; the rows stay as gaps until the file is
written anew. The file is only ever written or deleted under the gallery's write lock.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from facekd.errors import GalleryError
from facekd.gallery.index import Ids
from facekd.gallery.quantised import Codes, Coding
from facekd.gallery.sealing import Sealer

FORMAT = "facekd index 2"
HEADER_BYTES = 512
PIECE_ROWS = 4096
"""Half a megabyte of codes: what one removal reads and writes."""

GAP = 0
"""In place of the id of an erased row."""


@dataclass(frozen=True, slots=True)
class Cached:
    """What a cache holds.

    Attributes:
        journal: the change of the journal up to which the index goes.
        erased: the change up to which removals were taken out all the same.
        coding: how the codes were made.
        ids, codes: (N,) and (N, K).
    """

    journal: int
    erased: int
    coding: Coding
    ids: Ids
    codes: Codes


@dataclass(frozen=True, slots=True)
class _Header:
    gallery: str
    journal: int
    erased: int
    rows: int
    width: int
    head: int

    def to_line(self) -> bytes:
        values = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"format": FORMAT, **values}).encode().ljust(HEADER_BYTES - 1) + b"\n"

    @classmethod
    def read(cls, file: BinaryIO, identity: str) -> _Header | None:
        """The header, or None where it is not one of this gallery's."""
        try:
            values = json.loads(file.read(HEADER_BYTES))
            known = values.pop("format") == FORMAT and values["gallery"] == identity
            return cls(**values) if known else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def place(self, name: str) -> str:
        """What binds a record to this cache, and to nothing else."""
        return f"index/{self.journal}/{self.rows}/{self.width}/{name}"

    def extent(self, piece: int, overhead: int) -> tuple[int, int, int]:
        """Where a piece begins in the file, how many bytes it has, and how many rows."""
        row = self.width + 8
        rows = min(PIECE_ROWS, self.rows - piece * PIECE_ROWS)
        return HEADER_BYTES + self.head + piece * (PIECE_ROWS * row + overhead), rows * row + overhead, rows

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return -(-self.rows // PIECE_ROWS)


def cache_path(gallery: Path) -> Path:
    """Where a gallery's cache lies."""
    return gallery.with_name(gallery.name + ".index")


def drop(gallery: Path) -> None:
    """Delete the cache, where there is one, and what a killed process left of one. Inside a change."""
    for path in (cache_path(gallery), _part(gallery)):
        path.unlink(missing_ok=True)


def save(gallery: Path, identity: str, content: Cached, sealer: Sealer) -> bool:
    """Write the cache, complete or not at all. Inside a change.

    Returns:
        False when it could not be written (no room, no permission): the next opening is slow, nothing else.
    """
    partial = _part(gallery)
    order = np.argsort(content.ids)
    header = _Header(identity, content.journal, content.erased, len(order), content.codes.shape[1], 0)
    firsts = content.ids[order[::PIECE_ROWS]]
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            head = sealer.seal(_packed(content.coding, firsts), header.place("head"))
            header = _Header(identity, header.journal, header.erased, header.rows, header.width, len(head))
            file.write(header.to_line() + head)
            for piece in range(header.pieces):
                rows = order[piece * PIECE_ROWS : (piece + 1) * PIECE_ROWS]
                data = content.ids[rows].astype("<i8").tobytes() + content.codes[rows].tobytes()
                file.write(sealer.seal(data, header.place(str(piece))))
        partial.replace(cache_path(gallery))
    except OSError:
        partial.unlink(missing_ok=True)
        return False
    return True


def load(gallery: Path, identity: str, sealer: Sealer) -> Cached | None:
    """The cached index without what was erased; None where there is none of any use."""
    # Twice, since another process may erase from it at this very moment: half of that does not open.
    return _load(gallery, identity, sealer) or _load(gallery, identity, sealer)


def _load(gallery: Path, identity: str, sealer: Sealer) -> Cached | None:
    try:
        with cache_path(gallery).open("rb") as file:
            header = _Header.read(file, identity)
            if header is None:
                return None
            coding, _ = _unpacked(sealer.unseal(file.read(header.head), header.place("head")))
            ids, codes = np.empty(header.rows, np.int64), np.empty((header.rows, header.width), np.uint8)
            for piece in range(header.pieces):
                rows = slice(piece * PIECE_ROWS, (piece + 1) * PIECE_ROWS)
                ids[rows], codes[rows] = _read_piece(file, header, piece, sealer)
    except (OSError, ValueError, KeyError, GalleryError, MemoryError):
        return None
    if (ids == GAP).any():
        ids, codes = ids[ids != GAP], codes[ids != GAP]
    return Cached(header.journal, header.erased, coding, ids, codes)


def exists(gallery: Path) -> bool:
    """Whether there is a cache, or what a killed process left of one."""
    return cache_path(gallery).exists() or _part(gallery).exists()


def erased_up_to(gallery: Path, identity: str) -> int | None:
    """The change up to which removals were erased from the cache; None where there is none that is of this gallery."""
    try:
        with cache_path(gallery).open("rb") as file:
            header = _Header.read(file, identity)
    except OSError:
        return None
    return None if header is None else header.erased


def erase(gallery: Path, identity: str, ids: Sequence[int], journal: int, sealer: Sealer) -> None:
    """Overwrite the codes of removed templates. Inside a change; deletes the cache where that cannot be done.

    Args:
        gallery: the gallery's file.
        identity: the gallery's identifier.
        ids: templates that were removed; those that the cache does not hold are no error.
        journal: the change up to which these are all.
        sealer: the gallery's.

    Raises:
        OSError: the cache can neither be overwritten nor deleted.
    """
    _part(gallery).unlink(missing_ok=True)
    try:
        with cache_path(gallery).open("r+b", buffering=0) as file:
            header = _Header.read(file, identity)
            if header is None:
                raise ValueError("of another gallery")
            _, firsts = _unpacked(sealer.unseal(file.read(header.head), header.place("head")))
            gone = np.array(sorted(ids), np.int64)
            pieces = np.searchsorted(firsts, gone, side="right") - 1
            for piece in np.unique(pieces[pieces >= 0]).tolist():
                _erase_from_piece(file, header, piece, gone, sealer)
            os.fsync(file.fileno())
            line = _Header(identity, header.journal, journal, header.rows, header.width, header.head).to_line()
            file.seek(0)
            file.write(line)
    except (OSError, ValueError, KeyError, GalleryError):
        cache_path(gallery).unlink(missing_ok=True)


def _erase_from_piece(file: BinaryIO, header: _Header, piece: int, gone: Ids, sealer: Sealer) -> None:
    ids, codes = _read_piece(file, header, piece, sealer)
    rows = np.isin(ids, gone)
    if rows.any():
        ids, codes = np.where(rows, GAP, ids), np.where(rows[:, None], np.uint8(0), codes)
        record = sealer.seal(ids.astype("<i8").tobytes() + codes.tobytes(), header.place(str(piece)))
        file.seek(header.extent(piece, _overhead(sealer))[0])
        if file.write(record) != len(record):
            raise OSError("only a part was written")


def _read_piece(file: BinaryIO, header: _Header, piece: int, sealer: Sealer) -> tuple[Ids, Codes]:
    start, length, rows = header.extent(piece, _overhead(sealer))
    file.seek(start)
    data = sealer.unseal(file.read(length), header.place(str(piece)))
    ids = np.frombuffer(data, "<i8", rows).astype(np.int64, copy=False)
    return ids, np.frombuffer(data, np.uint8, offset=8 * rows).reshape(rows, header.width)


def _overhead(sealer: Sealer) -> int:
    return len(sealer.seal(b"", ""))


def _packed(coding: Coding, firsts: Ids) -> bytes:
    target = io.BytesIO()
    np.savez(target, axes=coding.axes, firsts=firsts)
    return target.getvalue()


def _unpacked(data: bytes) -> tuple[Coding, Ids]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return Coding(arrays["axes"]), arrays["firsts"]


def _part(gallery: Path) -> Path:
    return gallery.with_name(gallery.name + ".index.part")
