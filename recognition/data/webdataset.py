"""WebDataset tars: ``KEY.jpg`` beside ``KEY.cls`` or ``KEY.json``, members of one key next to each other.

Only the tar's headers are read at once; crops are read and decoded when they are used. The person of a crop is the
text of ``.cls``, else ``"identity"`` (or ``"label"``) in ``.json``, else the text of ``.txt``, whatever their order in
the tar; where all are absent or empty nobody knows who it is. (A ``.txt`` beside the others is a caption.)
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facekd.errors import DataError
from facekd.images import IMAGE_SUFFIXES
from facekd.recognition.data.encoded import EncodedCrops
from facekd.recognition.data.shards import FaceSet

_NAMES = ("identity", "label")
_SOURCES = ("cls", "json", "txt")  # of a person, the surest first


@dataclass(slots=True)
class _Sample:
    """Where one crop lies in its tar, and who it is by each source."""

    tar: Path
    name: str = ""
    offset: int = -1
    size: int = 0
    said: dict[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        return next((self.said[source] for source in _SOURCES if self.said.get(source)), "")


def read_webdataset(tars: Sequence[Path]) -> FaceSet:
    """Crops of one or more uncompressed tars as one set.

    Raises:
        DataError: a tar cannot be read, is compressed or cut off, or they hold no picture.
    """
    samples = [sample for tar in tars for sample in _index(tar)]
    if not samples:
        raise DataError(f"No picture in {', '.join(map(str, tars)) or 'no tar'}")
    identities = [sample.identity for sample in samples]
    people = tuple(sorted(set(identities) - {""}))
    number = {identity: place for place, identity in enumerate(people)}

    def read(place: int) -> bytes:
        sample = samples[place]
        with sample.tar.open("rb") as file:
            file.seek(sample.offset)
            data = file.read(sample.size)
        if len(data) != sample.size:
            raise DataError(f"{sample.tar} ends within a picture: copy it again")
        return data

    def where(place: int) -> str:
        return f"{samples[place].tar}: {samples[place].name}"

    labels = np.array([number.get(identity, -1) for identity in identities], np.int64)
    return FaceSet(EncodedCrops(read, len(samples), where), labels, people)


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
                    sample.name, sample.offset, sample.size = member.name, member.offset_data, member.size
                    if member.offset_data + member.size > length:
                        raise DataError(f"{path} ends within {member.name}: copy it again")
                elif suffix in _SOURCES:
                    content = archive.extractfile(member)
                    data = content.read() if content else b""
                    sample.said[suffix] = _identity(suffix, data, f"{path}: {member.name}")
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
    found = [table[name] for name in _NAMES if table.get(name) is not None] if isinstance(table, dict) else []
    return str(found[0]).strip() if found else ""
