"""WebDataset tars: ``KEY.jpg`` beside ``KEY.cls`` or ``KEY.json``, members of one key next to each other.

Only the tar's headers are read at once; crops are read and decoded when they are used. The person of a crop is the
text of ``.cls`` (or ``.txt``), or ``"identity"`` (or ``"label"``) in ``.json``; without one nobody knows who it is.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekd.errors import DataError
from facekd.images import IMAGE_SUFFIXES
from facekd.recognition.data.encoded import EncodedCrops
from facekd.recognition.data.shards import FaceSet

_NAMES = ("identity", "label")


@dataclass(slots=True)
class _Sample:
    """Where one crop lies in its tar, and whose it is."""

    tar: Path
    offset: int = -1
    size: int = 0
    identity: str = ""


def read_webdataset(tars: Sequence[Path]) -> FaceSet:
    """Crops of one or more uncompressed tars as one set.

    Raises:
        DataError: a tar cannot be read, is compressed or cut off, or they hold no picture.
    """
    samples = [sample for tar in tars for sample in _index(tar)]
    if not samples:
        raise DataError(f"No picture in {', '.join(map(str, tars)) or 'no tar'}")
    people = tuple(sorted({sample.identity for sample in samples} - {""}))
    number = {identity: place for place, identity in enumerate(people)}

    def read(place: int) -> bytes:
        sample = samples[place]
        with sample.tar.open("rb") as file:
            file.seek(sample.offset)
            data = file.read(sample.size)
        if len(data) != sample.size:
            raise DataError(f"{sample.tar} ends within a picture: copy it again")
        return data

    labels = np.array([number.get(sample.identity, -1) for sample in samples], np.int64)
    return FaceSet(EncodedCrops(read, len(samples)), labels, people, None)


def _index(path: Path) -> list[_Sample]:
    """The samples of one tar that have a picture, in its order."""
    samples: dict[str, _Sample] = {}
    try:
        length = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                key, _, suffix = name.partition(".")
                sample = samples.setdefault(f"{folder}/{key}", _Sample(path))
                suffix = suffix.lower()
                if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES:
                    sample.offset, sample.size = member.offset_data, member.size
                    if member.offset_data + member.size > length:
                        raise DataError(f"{path} ends within {member.name}: copy it again")
                elif suffix in ("cls", "txt", "json"):
                    content = archive.extractfile(member)
                    sample.identity = _identity(suffix, content.read() if content else b"", f"{path}: {member.name}")
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"Cannot read {path} as an uncompressed tar: {error}") from error
    return [sample for sample in samples.values() if sample.offset >= 0]


def _identity(suffix: str, data: bytes, where: str) -> str:
    try:
        text = data.decode("utf-8").strip()
        if suffix != "json":
            return text
        table = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not readable: {error}") from error
    found = next((table[name] for name in _NAMES if name in table), "") if isinstance(table, dict) else ""
    return str(found)
