"""Crops for training and for validation from whatever layout a folder has, joined to one set."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.recognition.data.encoded import Crops, chosen_crops, joined_crops
from facekd.recognition.data.identity_folders import read_identity_folders
from facekd.recognition.data.layout import Layout, crop_keys, crops_digest, layout_of
from facekd.recognition.data.record_io import read_record_faces
from facekd.recognition.data.screen_folder import Screening, read_screening
from facekd.recognition.data.shards import FaceSet, join_embeddings, read_faces, read_table, table_crops
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


def read_folder(folder: Path, own_name: str | None = None) -> CropFolder:
    """Every crop of a folder of any layout.

    Args:
        folder: of crops.
        own_name: as ``own_names`` gives it: before the numbers of people that have no other name.

    Raises:
        DataError: it has no known layout, or its files are missing or damaged.
    """
    identities, training = _filed(folder, own_name or own_names([folder])[folder])
    if layout_of(folder) is Layout.table:
        return CropFolder(table_crops(folder, read_table(folder)), identities, training)
    return CropFolder(_read_unchanged(folder, crops_digest(folder)).crops, identities, training)


def own_names(folders: Sequence[Path]) -> dict[Path, str]:
    """What tells the numbered people of each folder from those of the others.

    A folder's last name, with as many of the names above it as no other folder ends in: the 7 of ``a/train`` is not
    the 7 of ``b/train``.
    """
    parts = {folder: Path(os.path.abspath(folder)).parts for folder in folders}
    names = {}
    for folder, own in parts.items():
        depth = 1
        while any(other != own and other[-depth:] == own[-depth:] for other in parts.values()):
            depth += 1
        names[folder] = "/".join(own[-depth:])
    return names


def read_training(folders: Sequence[Path], *, teachers: Sequence[str] = (), val_share: float = VAL_SHARE) -> FaceSet:
    """The training crops of one or more folders as one set; the same name in two folders is one person.

    A folder may hold shards with ``faces.csv`` (its ``train`` split), ``train.rec`` and ``train.idx``, ``*.tar``, or
    one folder of aligned crops a person. All but the first stay encoded until used. People that a record file or a
    tar merely numbers are its own: the 7 of one set is not the 7 of another. What a folder's ``screening.csv`` says is
    obeyed. Where no folder has a ``val`` split, every crop filed under one of the people whom ``read_validation`` takes
    is left out, whoever the screening says it is. A folder of a ``val`` split alone is passed over.

    Args:
        folders: in any mixture.
        teachers: names; ``teacher_NAME.npy`` of each folder is read for each, a row a crop in the reader's order.
        val_share: as ``read_validation`` gets it.

    Raises:
        DataError: a folder has no known layout, or its files are missing, damaged or contradict each other.
    """
    names, held = own_names(folders), held_out(folders, val_share)
    others = [folder for folder in folders if layout_of(folder) is not Layout.table]
    tables = [folder for folder in folders if folder not in others]
    with_train = [folder for folder in tables if _has(folder, "train")]
    sets = [_read_screened(folder, names[folder], teachers, held) for folder in others]
    if with_train or not others:
        faces = read_faces(with_train or tables, "train", teachers=teachers, held_out=held, names=names)
        sets.insert(0, faces)
    return sets[0] if len(sets) == 1 else join_sets(sets)


def read_validation(folders: Sequence[Path], *, val_share: float = VAL_SHARE) -> FaceSet:
    """Labelled crops of people who are not trained on.

    Where a folder has a ``faces.csv`` with a ``val`` split, that is it, and the other folders are for training alone.
    Where none has, it is the crops of the people whom ``held_out`` chooses, without those that a ``screening.csv``
    calls misfits or copies.

    Args:
        folders: as ``read_training`` gets them.
        val_share: share of the people to hold out where no folder has a split.

    Raises:
        DataError: too few people were held out.
    """
    with_split = [folder for folder in folders if _has(folder, "val")]
    if with_split:
        return read_faces(with_split, "val", labelled_only=True)
    people = tuple(sorted(held_out(folders, val_share)))
    number = {name: place for place, name in enumerate(people)}
    names = own_names(folders)
    crops, labels = [], []
    for folder in folders:
        whole = read_folder(folder, names[folder])
        own = np.array([number.get(name, -1) for name in whole.identities], np.int64)
        usable = whole.training & (own >= 0)
        if (screening := _screening(folder)) is not None:
            usable &= screening.fits & screening.kept
        chosen = np.flatnonzero(usable)
        crops.append(whole.crops[chosen])
        labels += own[chosen].tolist()
    seen = len(set(labels))
    if seen < 2 or len(labels) == seen:
        raise DataError(
            f"validation needs several crops of at least two people who are not trained on; {seen} people with "
            f"{len(labels)} crops were held out (a share of {val_share:g}). Give more people, or a folder whose "
            "faces.csv has a val split, as facekd prepare makes it"
        )
    return FaceSet(np.concatenate(crops), np.array(labels, np.int64), people)


def held_out(folders: Sequence[Path], share: float) -> frozenset[str]:
    """The people of validation where no folder has a ``val`` split; nobody where one has.

    A share of all people, by a digest of their names: whether somebody is among them does not depend on who else is
    there. In the digest's order, as many are taken as have 4,000 crops together, so that nobody is held out in vain.
    """
    if any(_has(folder, "val") for folder in folders):
        return frozenset()
    names = own_names(folders)
    counts: Counter[str] = Counter()
    for folder in folders:
        whole = read_folder(folder, names[folder])
        counts.update(
            name for name, training in zip(whole.identities, whole.training.tolist(), strict=True) if training
        )
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


def _read_plain(folder: Path, own_name: str) -> FaceSet:
    """Every crop of a folder without a table, as nothing has screened it."""
    digest = crops_digest(folder)
    faces = _read_unchanged(folder, digest)
    people = tuple(f"{own_name}/{name}" if name.isdigit() else name for name in faces.people)
    return replace(faces, people=people, keys=crop_keys(digest, np.arange(len(faces))))


@lru_cache(maxsize=8)  # the index of millions of records takes minutes to read, and is asked for four times
def _read_unchanged(folder: Path, _digest: str) -> FaceSet:
    layout = layout_of(folder)
    if layout is Layout.records:
        return read_record_faces(folder)
    if layout is Layout.tars:
        return read_webdataset(sorted(folder.glob("*.tar")))
    return read_identity_folders(folder)


def _read_screened(folder: Path, own_name: str, teachers: Sequence[str], held: Collection[str]) -> FaceSet:
    """What training takes of a folder without a table."""
    faces = _read_plain(folder, own_name)
    faces = replace(faces, teachers={name: read_teacher(folder, name, len(faces)) for name in teachers})
    kept = np.array([*(name not in held for name in faces.people), True], np.bool_)[faces.labels]  # -1 takes the last
    if (screening := _screening(folder)) is not None:
        identities = screening.identities(_identities(faces), own_name)
        people = tuple(sorted(set(identities) - {""}))
        number = {name: place for place, name in enumerate(people)}
        labels = np.array([number.get(name, -1) for name in identities], np.int64)
        faces, kept = replace(faces, people=people, labels=labels), kept & screening.kept
    return faces if kept.all() else some_of(faces, np.flatnonzero(kept))


def _filed(folder: Path, own_name: str) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
    """Who each crop of a folder is said to be, and which are for training; see ``CropFolder``."""
    if layout_of(folder) is Layout.table:
        table = read_table(folder)
        training = np.array([row["split"] == "train" for row in table], np.bool_)
        return tuple(row["identity"] for row in table), training
    faces = _read_plain(folder, own_name)
    return _identities(faces), np.ones(len(faces), np.bool_)


def _screening(folder: Path) -> Screening | None:
    return read_screening(folder, _filed(folder, own_names([folder])[folder])[0])


def _identities(faces: FaceSet) -> tuple[str, ...]:
    names = (*faces.people, "")
    return tuple(names[label] for label in faces.labels)


def _has(folder: Path, split: str) -> bool:
    return layout_of(folder) is Layout.table and any(row["split"] == split for row in read_table(folder))


def _place(name: str) -> float:
    """A number in 0..1 that follows from the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
