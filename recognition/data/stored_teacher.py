"""A teacher's embeddings of a folder's crops, computed once and kept beside them.

``teacher_NAME.npy`` has a row for each crop, in the order of the folder's reader; ``teacher_NAME.json`` says which
model made it, of which crops, and has the file's digest. A file without the second is taken as it is: somebody else has
made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.recognition.data.encoded import Crops
from facekd.recognition.data.layout import crops_digest
from facekd.whole_files import write_whole

BLOCK = 256  # crops between two notes of how far it is

Progress = Callable[[Iterable[int]], Iterator[int]]


class ContractedEmbedder(Protocol):
    """An embedder whose contract says which one it is."""

    @property
    def contract(self) -> str:
        """Names weights and preprocessing."""

    @property
    def dimension(self) -> int:
        """Length of an embedding."""

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit-length embeddings (N, D) of RGB crops (N, 112, 112, 3)."""


class MirroredEmbedder:
    """An embedder whose answer is the mean of those to the crop and to its mirror image.

    Training mirrors half of the crops, and a stored answer is the same for both: that of the crop alone is then wrong
    for the other half by as much as the embedder minds mirroring.

    Args:
        embedder: asked twice about each crop.
    """

    def __init__(self, embedder: ContractedEmbedder) -> None:
        self._embedder = embedder
        self.contract = f"{embedder.contract} mirrored"
        self.dimension = embedder.dimension

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `ContractedEmbedder`."""
        both = self._embedder.embed(crops) + self._embedder.embed(np.ascontiguousarray(crops[:, :, ::-1]))
        # Opposite answers have no mean direction; their zero is left for whoever reads the row to refuse.
        return both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)


def teacher_file(folder: Path, name: str) -> Path:
    """Where a teacher's embeddings lie."""
    return folder / f"teacher_{name}.npy"


def store_teacher(
    folder: Path, name: str, embedder: ContractedEmbedder, crops: Crops, progress: Progress = iter
) -> bool:
    """Write ``teacher_NAME.npy``; goes on where an interrupted call was.

    Args:
        folder: of the crops.
        name: of the teacher, as recipes name it.
        embedder: the teacher.
        crops: all of the folder's, in the order of its reader.
        progress: wraps the blocks, for a progress bar.

    Returns:
        Whether anything had to be computed: False when the file was there and whole.

    Raises:
        DataError: the file was made by another model, or of other crops.
    """
    target = teacher_file(folder, name)
    made = {"contract": embedder.contract, "crops": crops_digest(folder), "rows": len(crops)}
    if target.exists():
        _refuse_other(target, made)
        return False
    partial, note = target.with_suffix(".npy.partial"), target.with_suffix(".json.partial")
    done = _begun(note, made) if partial.exists() else 0
    shape = (len(crops), embedder.dimension)
    rows = np.lib.format.open_memmap(partial, "r+" if done else "w+", np.float16, shape)
    for start in progress(range(done, len(crops), BLOCK)):
        rows[start : start + BLOCK] = embedder.embed(crops[start : start + BLOCK])
        rows.flush()
        write_whole(note, json.dumps({**made, "done": start + BLOCK}))
    del rows
    write_whole(target.with_suffix(".json"), json.dumps({**made, "sha256": _digest(partial)}))
    partial.replace(target)
    note.unlink(missing_ok=True)
    return True


class StoredEmbeddings:
    """A teacher's embeddings of some crops, (N, T): mapped, not read, and brought to unit length when rows are taken.

    Sets of millions are larger than what each of several training processes can hold.

    Args:
        file: (M, T) of any length and floating type; all rows of it.
        where: what messages call it.
    """

    def __init__(self, file: NDArray[Any], where: str = "the teacher's embeddings") -> None:
        self._files: list[tuple[NDArray[Any], str]] = [(file, where)]
        self._file = np.zeros(len(file), np.int32)
        self._row = np.arange(len(file), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._row)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, T)."""
        return len(self), int(self._files[0][0].shape[1])

    def chosen(self, places: NDArray[np.integer] | Sequence[int]) -> StoredEmbeddings:
        """Those of some of the crops, in the order of their places; nothing is read."""
        some = StoredEmbeddings(self._files[0][0][:0])
        some._files, some._file, some._row = self._files, self._file[places], self._row[places]
        return some

    @classmethod
    def joined(cls, parts: Sequence[StoredEmbeddings]) -> StoredEmbeddings:
        """Several sets as one, in their order; nothing is read.

        Raises:
            ValueError: they differ in T.
        """
        if len({part.shape[1] for part in parts}) != 1:
            raise ValueError(f"embeddings of {', '.join(str(part.shape[1]) for part in parts)} numbers are not one set")
        whole = cls(parts[0]._files[0][0][:0])
        whole._files = [file for part in parts for file in part._files]
        first = np.cumsum([0, *(len(part._files) for part in parts[:-1])]).tolist()
        whole._file = np.concatenate([part._file + np.int32(n) for part, n in zip(parts, first, strict=True)])
        whole._row = np.concatenate([part._row for part in parts])
        return whole

    def __getitem__(self, places: slice | NDArray[np.integer] | Sequence[int]) -> NDArray[np.float32]:
        """Unit-length rows float32 (M, T) of a slice or of places.

        Raises:
            DataError: a row is no embedding: zero, infinite or not a number.
        """
        files, rows = self._file[places], self._row[places]
        taken = np.empty((len(rows), self.shape[1]), np.float32)
        for number in np.unique(files).tolist():
            own = files == number
            taken[own] = self._files[number][0][rows[own]]
        lengths = np.linalg.norm(taken, axis=1, keepdims=True)
        wrong = ~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0))
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"row {rows[place]} of {self._files[files[place]][1]} has length {lengths[place, 0]:g} and is no "
                "embedding: prepare the file again"
            )
        return taken / lengths


def read_teacher(folder: Path, name: str, rows: int) -> StoredEmbeddings:
    """``teacher_NAME.npy`` of a folder: one embedding for each of ``rows`` crops, in order.

    Raises:
        DataError: the file cannot be read, has another number of rows, was made of other crops, or is not the one that
            its note is about.
    """
    path = teacher_file(folder, name)
    try:
        embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"Cannot read the teacher's embeddings {path}: {error}; facekd prepare {folder} --teacher MODEL makes them"
        ) from error
    if embeddings.ndim != 2 or len(embeddings) != rows:
        raise DataError(f"{path} has shape {embeddings.shape}, but the crops of {folder} have {rows} rows")
    note = path.with_suffix(".json")
    if note.exists():
        said = _read(note)
        if said.get("crops") != crops_digest(folder):
            raise DataError(f"{path} was made of other crops than {folder} holds now: remove it and prepare it again")
        if said.get("sha256") not in (None, _digest(path)):
            raise DataError(
                f"{path} is not the file that {note.name} is about: remove the note if you vouch for the file, or both "
                "and prepare it again"
            )
    return StoredEmbeddings(embeddings, str(path))


def require_one_teacher(folders: Sequence[Path], name: str) -> None:
    """Refuse folders whose embeddings of one name are two models': their cosines mean nothing to each other.

    Folders without a note are taken as they are.

    Raises:
        DataError: it names two folders and their models.
    """
    known: dict[str, Path] = {}
    for folder in folders:
        note = teacher_file(folder, name).with_suffix(".json")
        if note.exists():
            known.setdefault(str(_read(note).get("contract")), folder)
    if len(known) > 1:
        (one, first), (other, second), *_ = known.items()
        raise DataError(
            f"teacher_{name}.npy of {first} was made by the model {one}, that of {second} by {other}: prepare one of "
            "them again"
        )


def _refuse_other(target: Path, made: dict[str, Any]) -> None:
    note = target.with_suffix(".json")
    remedy = f"remove {target.name}, or give the teacher's file another name"
    if not note.exists():
        raise DataError(f"{target} exists, and nothing says which model made it: {remedy}")
    stored = _read(note)
    if stored.get("contract") != made["contract"]:
        raise DataError(f"{target} was made by another model ({stored.get('contract')}): {remedy}")
    if {key: stored.get(key) for key in made} != made:
        raise DataError(f"{target} was made of other crops than {target.parent} holds now: {remedy}")


def _begun(note: Path, made: dict[str, Any]) -> int:
    """How many rows an interrupted call left; 0 when it was another model's, or of other crops."""
    stored = _read(note) if note.exists() else {}
    return int(stored.get("done", 0)) if {key: stored.get(key) for key in made} == made else 0


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(note: Path) -> dict[str, Any]:
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {note}: {error}; remove it") from error
    return content if isinstance(content, dict) else {}
