"""Parts of sets of crops, and several sets as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.recognition.data.encoded import chosen_crops, joined_crops
from facekd.recognition.data.shards import FaceSet, join_embeddings


def some_of(faces: FaceSet, chosen: NDArray[np.int64]) -> FaceSet:
    """The set of some crops, and of the people who are on them."""
    present = np.unique(faces.labels[chosen])
    present = present[present >= 0]
    table = np.full(len(faces.people) + 1, -1, np.int64)  # -1 takes the last
    table[present] = np.arange(len(present))
    crops = faces.crops[chosen] if isinstance(faces.crops, np.ndarray) else chosen_crops(faces.crops, chosen)
    people = tuple(faces.people[place] for place in present)
    teachers = {name: rows.chosen(chosen) for name, rows in faces.teachers.items()}
    keys = None if faces.keys is None else faces.keys[chosen]
    return FaceSet(crops, table[faces.labels[chosen]], people, teachers, keys)


def join_sets(sets: Sequence[FaceSet]) -> FaceSet:
    """Several sets as one, crops not copied; the same name in two of them is one person.

    Raises:
        DataError: some have a teacher's embeddings and others have not, or of another length.
    """
    people = tuple(sorted({name for faces in sets for name in faces.people}))
    number = {name: place for place, name in enumerate(people)}
    labels = []
    for faces in sets:
        table = np.array([*(number[name] for name in faces.people), -1], np.int64)
        labels.append(table[faces.labels])  # -1 takes the last
    named = {name for faces in sets for name in faces.teachers}
    if lacking := sorted(name for name in named if any(name not in faces.teachers for faces in sets)):
        raise DataError(
            f"Some sets have embeddings of {', '.join(lacking)} and others have not: every folder needs them"
        )
    teachers = {name: join_embeddings(name, [faces.teachers[name] for faces in sets]) for name in sorted(named)}
    keys = [faces.keys for faces in sets if faces.keys is not None]
    named_all = np.concatenate(keys) if len(keys) == len(sets) else None
    return FaceSet(joined_crops([faces.crops for faces in sets]), np.concatenate(labels), people, teachers, named_all)
