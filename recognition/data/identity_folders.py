"""Aligned crops in one folder a person: ``FOLDER/PERSON/*.jpg``, the plainest layout of the field."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facekd.errors import DataError
from facekd.images import list_images
from facekd.recognition.data.encoded import EncodedCrops
from facekd.recognition.data.shards import FaceSet

UNLABELLED = "_unlabelled"  # pictures in a folder of this name, or in no folder, have no identity


def read_identity_folders(folder: Path) -> FaceSet:
    """Already aligned crops as a set, decoded as they are used; photographs need ``facekd prepare`` first.

    Pictures directly in ``folder`` or in ``_unlabelled`` are of nobody in particular. Deeper folders belong to the
    person of the first one.

    Raises:
        DataError: the folder holds no picture.
    """
    paths = list_images(folder) if folder.is_dir() else []
    if not paths:
        raise DataError(f"{folder} holds no picture; wanted FOLDER/PERSON/*.jpg of aligned crops")
    identities = [identity_of(path.relative_to(folder)) for path in paths]
    people = tuple(sorted(set(identities) - {""}))
    number = {identity: place for place, identity in enumerate(people)}
    labels = np.array([number.get(identity, -1) for identity in identities], np.int64)
    crops = EncodedCrops(lambda place: paths[place].read_bytes(), len(paths), lambda place: str(paths[place]))
    return FaceSet(crops, labels, people)


def identity_of(relative: Path) -> str:
    """The person of a picture, from its path within the folder of people; empty where nobody knows."""
    return relative.parts[0] if len(relative.parts) > 1 and relative.parts[0] != UNLABELLED else ""
