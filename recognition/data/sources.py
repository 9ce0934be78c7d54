"""Crops for training and for validation from whatever layout a folder has, joined to one set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.recognition.data.encoded import Crops, chosen_crops, joined_crops
from facekd.recognition.data.identity_folders import read_identity_folders
from facekd.recognition.data.layout import Layout, crops_digest, layout_of
from facekd.recognition.data.record_io import read_record_faces
from facekd.recognition.data.screen_folder import read_screening
from facekd.recognition.data.shards import FaceSet, read_faces, read_table, table_crops
from facekd.recognition.data.stored_teacher import read_teacher
from facekd.recognition.data.webdataset import read_webdataset

VAL_SHARE = 0.05
MOST_VAL_CROPS = 4000  # every pair of them is compared at each validation


@dataclass(frozen=True, slots=True)
class CropFolder:
    """Every crop of one folder, in the order in which a teacher's embeddings of it are stored.

    Attributes:
        crops: (N, 112, 112, 3) uint8 RGB, decoded when indexed.
        identities: who each one is said to be; empty where nobody knows.
        training: (N,) which are for training; all, where the layout has no splits.
    """

    crops: Crops
    identities: tuple[str, ...]
    training: NDArray[np.bool_]


def read_folder(folder: Path) -> CropFolder:
    """Every crop of a folder of any layout.

    Raises:
        DataError: it has no known layout, or its files are missing or damaged.
    """
    if layout_of(folder) is Layout.table:
        table = read_table(folder)
        training = np.array([row["split"] == "train" for row in table], np.bool_)
        return CropFolder(table_crops(folder, table), tuple(row["identity"] for row in table), training)
    faces = _read_plain(folder)
    return CropFolder(faces.crops, _identities(faces), np.ones(len(faces), np.bool_))


def read_training(folders: Sequence[Path], *, teacher: str | None = None, val_share: float = VAL_SHARE) -> FaceSet:
    """The training crops of one or more folders as one set; the same name in two folders is one person.

    A folder may hold shards with ``faces.csv`` (its ``train`` split), ``train.rec`` and ``train.idx``, ``*.tar``, or
    one folder of aligned crops a person. All but the first stay encoded until used. People that a record file or a
    tar merely numbers are its own: the 7 of one set is not the 7 of another. What a folder's ``screening.csv`` says is
    obeyed. Where no folder has a ``val`` split, the people that ``read_validation`` takes are left out.

    Args:
        folders: in any mixture.
        teacher: read ``teacher_NAME.npy`` of each folder, a row for each crop in the reader's order.
        val_share: as ``read_validation`` gets it.

    Raises:
        DataError: a folder has no known layout, or its files are missing, damaged or contradict each other.
    """
    tables = [folder for folder in folders if layout_of(folder) is Layout.table]
    others = [folder for folder in folders if folder not in tables]
    sets = [read_faces(tables, "train", teacher=teacher)] if tables or not others else []
    sets += [_read_screened(folder, teacher) for folder in others]
    faces = sets[0] if len(sets) == 1 else join_sets(sets)
    people = held_out(folders, val_share)
    held = np.array([*(name in people for name in faces.people), False], np.bool_)
    return some_of(faces, np.flatnonzero(~held[faces.labels])) if held.any() else faces


def read_validation(folders: Sequence[Path], *, val_share: float = VAL_SHARE) -> FaceSet:
    """Labelled crops of people who are not trained on.

    Where a folder has a ``faces.csv`` with a ``val`` split, that is it, and the other folders are for training alone.
    Where none has, it is the crops of the people whom ``held_out`` chooses.

    Args:
        folders: as ``read_training`` gets them.
        val_share: share of the people to hold out where no folder has a split.

    Raises:
        DataError: too few people were held out.
    """
    with_split = [folder for folder in folders if _has_val(folder)]
    if with_split:
        return read_faces(with_split, "val", labelled_only=True)
    people = tuple(sorted(held_out(folders, val_share)))
    number = {name: place for place, name in enumerate(people)}
    crops, labels = [], []
    for folder in folders:
        whole = read_folder(folder)
        own = [number.get(name, -1) for name in whole.identities]
        chosen = [i for i, label in enumerate(own) if label >= 0 and whole.training[i]]
        crops.append(whole.crops[np.array(chosen, np.int64)])
        labels += [own[i] for i in chosen]
    if len(people) < 2 or len(labels) == len(people):
        raise DataError(
            f"validation needs several crops of at least two people who are not trained on; {len(people)} people with "
            f"{len(labels)} crops were held out (a share of {val_share:g}). Give more people, or a folder whose "
            "faces.csv has a val split, as facekd prepare makes it"
        )
    return FaceSet(np.concatenate(crops), np.array(labels, np.int64), people, None)


def held_out(folders: Sequence[Path], share: float) -> frozenset[str]:
    """The people of validation where no folder has a ``val`` split; nobody where one has.

    A share of all people, by a digest of their names: whether somebody is among them does not depend on who else is
    there. In the digest's order, as many are taken as have 4,000 crops together, so that nobody is held out in vain.
    """
    if any(_has_val(folder) for folder in folders):
        return frozenset()
    counts: Counter[str] = Counter()
    for folder in folders:
        counts.update(_training_names(folder))
    del counts[""]
    people: set[str] = set()
    crops = 0
    for name in sorted((name for name in counts if _place(name) < share), key=_place):
        crops += counts[name]
        if len(people) >= 2 and crops > MOST_VAL_CROPS:
            break
        people.add(name)
    return frozenset(people)


def some_of(faces: FaceSet, chosen: NDArray[np.int64]) -> FaceSet:
    """The set of some crops, and of the people who are on them."""
    present = np.unique(faces.labels[chosen])
    present = present[present >= 0]
    table = np.full(len(faces.people) + 1, -1, np.int64)  # -1 takes the last
    table[present] = np.arange(len(present))
    crops = faces.crops[chosen] if isinstance(faces.crops, np.ndarray) else chosen_crops(faces.crops, chosen)
    people = tuple(faces.people[place] for place in present)
    teacher = None if faces.teacher is None else faces.teacher[chosen]
    return FaceSet(crops, table[faces.labels[chosen]], people, teacher)


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
    teachers = [faces.teacher for faces in sets if faces.teacher is not None]
    if len({rows.shape[1] for rows in teachers}) > 1 or len(teachers) not in (0, len(sets)):
        raise DataError("The sets differ in their teacher's embeddings: every folder needs those of one teacher")
    crops = joined_crops([faces.crops for faces in sets])
    return FaceSet(crops, np.concatenate(labels), people, np.concatenate(teachers) if teachers else None)


def _read_plain(folder: Path) -> FaceSet:
    """Every crop of a folder without a table."""
    return _read_unchanged(folder, crops_digest(folder))


@lru_cache(maxsize=8)  # the index of millions of records takes minutes to read, and is asked for four times
def _read_unchanged(folder: Path, _digest: str) -> FaceSet:
    layout = layout_of(folder)
    if layout is Layout.records:
        faces = read_record_faces(folder)
    elif layout is Layout.tars:
        faces = read_webdataset(sorted(folder.glob("*.tar")))
    else:
        faces = read_identity_folders(folder)
    people = tuple(f"{folder.name}/{name}" if name.isdigit() else name for name in faces.people)
    return replace(faces, people=people)


def _training_names(folder: Path) -> Iterable[str]:
    """Who each of a folder's training crops is said to be, before any screening."""
    if layout_of(folder) is Layout.table:
        return (row["identity"] for row in read_table(folder) if row["split"] == "train")
    return _identities(_read_plain(folder))


def _read_screened(folder: Path, teacher: str | None) -> FaceSet:
    """What training takes of a folder without a table."""
    faces = _read_plain(folder)
    faces = replace(faces, teacher=None if teacher is None else read_teacher(folder, teacher, len(faces)))
    screening = read_screening(folder, _identities(faces))
    if screening is None:
        return faces
    identities, kept = screening
    people = tuple(sorted(set(identities) - {""}))
    number = {name: place for place, name in enumerate(people)}
    labels = np.array([number.get(name, -1) for name in identities], np.int64)
    return some_of(replace(faces, people=people, labels=labels), np.flatnonzero(kept))


def _identities(faces: FaceSet) -> tuple[str, ...]:
    names = (*faces.people, "")
    return tuple(names[label] for label in faces.labels)


def _has_val(folder: Path) -> bool:
    return layout_of(folder) is Layout.table and any(row["split"] == "val" for row in read_table(folder))


def _place(name: str) -> float:
    """A number in 0..1 that follows from the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
