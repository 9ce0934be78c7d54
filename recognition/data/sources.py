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
from facekd.recognition.data.face_sets import join_sets, some_of
from facekd.recognition.data.identity_folders import read_identity_folders
from facekd.recognition.data.layout import Layout, crop_keys, crops_digest, layout_of
from facekd.recognition.data.record_io import read_record_faces
from facekd.recognition.data.screen_folder import Screening, read_screening
from facekd.recognition.data.shards import FaceSet, read_faces, read_faces_table, table_crops
from facekd.recognition.data.stored_teacher import read_teacher
from facekd.recognition.data.webdataset import read_webdataset

VAL_SHARE = 0.05
MOST_VAL_CROPS = 4000  # every pair of them is compared at each validation
MOST_OF_ONE = 100  # of one person, where there are more than that in all


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
        return CropFolder(table_crops(folder, read_faces_table(folder)), identities, training)
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
    obeyed. Every crop filed under one of the people of ``held_out`` is left out, whoever the screening says it is. A
    folder with a table in which nobody else is for training is passed over.

    Args:
        folders: in any mixture.
        teachers: names; ``teacher_NAME.npy`` of each folder is read for each, a row a crop in the reader's order.
        val_share: as ``read_validation`` gets it.

    Raises:
        DataError: a folder has no known layout, its files are missing, damaged or contradict each other, or nothing is
            left to train on.
    """
    names, held = own_names(folders), held_out(folders, val_share)
    others = [folder for folder in folders if layout_of(folder) is not Layout.table]
    tables = [folder for folder in folders if folder not in others]
    with_train = [folder for folder in tables if _filed_under(folder, "train") - held]
    sets = [_read_screened(folder, names[folder], teachers, held) for folder in others]
    if with_train or not others:
        faces = read_faces(with_train or tables, "train", teachers=teachers, held_out=held, names=names)
        sets.insert(0, faces)
    joined = sets[0] if len(sets) == 1 else join_sets(sets)
    if not len(joined):
        raise DataError(
            f"No crop to train on in {', '.join(map(str, folders))}: all show some of the {len(held)} people of "
            "validation and test, who must not be trained on. Give photographs of others"
        )
    return joined


def read_validation(folders: Sequence[Path], *, val_share: float = VAL_SHARE) -> FaceSet:
    """Labelled crops of people who are not trained on.

    Where a folder has a ``faces.csv`` with a ``val`` split, that is it, and the other folders are for training alone.
    Where none has, it is the crops of a share of the people, without those that a ``screening.csv`` calls misfits or
    copies. Of more than 4,000 crops some are taken (see ``_few_enough``).

    Args:
        folders: as ``read_training`` gets them.
        val_share: share of the people to hold out where no folder has a split.

    Raises:
        DataError: too few people were held out.
    """
    with_split = [folder for folder in folders if _filed_under(folder, "val")]
    if with_split:
        faces = read_faces(with_split, "val", labelled_only=True, most_decoded=MOST_VAL_CROPS)
        if len(faces) > MOST_VAL_CROPS:
            faces = some_of(faces, _few_enough(faces.labels, faces.people))
        return replace(faces, crops=faces.crops[:])
    people = tuple(sorted(_share_of_people(folders, val_share, _filed_anywhere(folders, "test"))))
    number = {name: place for place, name in enumerate(people)}
    names = own_names(folders)
    parts: list[Crops] = []
    labels: list[int] = []
    for folder in folders:
        whole = read_folder(folder, names[folder])
        own = np.array([number.get(name, -1) for name in whole.identities], np.int64)
        usable = whole.training & (own >= 0)
        if (screening := _screening(folder)) is not None:
            usable &= screening.fits & screening.kept
        chosen = np.flatnonzero(usable)
        parts.append(chosen_crops(whole.crops, chosen))
        labels += own[chosen].tolist()
    seen = len(set(labels))
    if seen < 2 or len(labels) == seen:
        raise DataError(
            f"validation needs several crops of at least two people who are not trained on; {seen} people with "
            f"{len(labels)} crops were held out (a share of {val_share:g}). Give more people, or a folder whose "
            "faces.csv has a val split, as facekd prepare makes it"
        )
    known = np.array(labels, np.int64)
    few = _few_enough(known, people)
    return FaceSet(joined_crops(parts)[few], known[few], people)


def held_out(folders: Sequence[Path], share: float) -> frozenset[str]:
    """The people who are not trained on, in whatever folder they are.

    They are those whom a ``faces.csv`` files under ``val`` or ``test``, since the same name in two folders is one
    person; and where no folder has a ``val`` split, a share of the others, whom ``read_validation`` then takes.
    """
    judged, tested = (_filed_anywhere(folders, split) for split in ("val", "test"))
    own = frozenset() if judged else _share_of_people(folders, share, tested)
    return (own | judged | tested) - {""}


def _share_of_people(folders: Sequence[Path], share: float, tested: Collection[str]) -> frozenset[str]:
    """Whom validation takes where no folder has a ``val`` split.

    A share of all people, by a digest of their names: whether somebody is among them does not depend on who else is
    there. In the digest's order, as many are taken as have 4,000 crops together, so that nobody is held out in vain.
    Nobody who is tested is among them: what is chosen must not be chosen on those.
    """
    names = own_names(folders)
    counts: Counter[str] = Counter()
    for folder in folders:
        whole = read_folder(folder, names[folder])
        counts.update(
            name for name, training in zip(whole.identities, whole.training.tolist(), strict=True) if training
        )
    for name in {"", *tested}:
        del counts[name]
    people: set[str] = set()
    crops = 0
    for name in sorted((name for name in counts if _place(name) < share), key=_place):
        crops += counts[name]
        if len(people) >= 2 and crops > MOST_VAL_CROPS:
            break
        people.add(name)
    return frozenset(people)


def _few_enough(labels: NDArray[np.int64], people: Sequence[str]) -> NDArray[np.int64]:
    """The places of the labelled crops that validation looks at: all of up to 4,000.

    Of more, up to 100 of each person, from first to last; and in the order of the names' digests as many people as have
    4,000 of these together.
    """
    if len(labels) <= MOST_VAL_CROPS:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(len(people) + 1))
    taken: list[NDArray[np.int64]] = []
    crops = 0
    for number in sorted(range(len(people)), key=lambda number: _place(people[number])):
        own = order[ends[number] : ends[number + 1]]
        if not len(own):
            continue
        if len(own) > MOST_OF_ONE:
            own = own[np.linspace(0, len(own) - 1, MOST_OF_ONE).astype(np.int64)]
        crops += len(own)
        if len(taken) >= 2 and crops > MOST_VAL_CROPS:
            break
        taken.append(own)
    return np.sort(np.concatenate(taken))


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
        table = read_faces_table(folder)
        training = np.array([row["split"] == "train" for row in table], np.bool_)
        return tuple(row["identity"] for row in table), training
    faces = _read_plain(folder, own_name)
    return _identities(faces), np.ones(len(faces), np.bool_)


def _screening(folder: Path) -> Screening | None:
    return read_screening(folder, _filed(folder, own_names([folder])[folder])[0])


def _identities(faces: FaceSet) -> tuple[str, ...]:
    names = (*faces.people, "")
    return tuple(names[label] for label in faces.labels)


def _filed_under(folder: Path, split: str) -> frozenset[str]:
    """Who is in a split of a folder's table, "" where nobody knows; nobody where it has no table."""
    if layout_of(folder) is not Layout.table:
        return frozenset()
    return frozenset(row["identity"] for row in read_faces_table(folder) if row["split"] == split)


def _filed_anywhere(folders: Sequence[Path], split: str) -> frozenset[str]:
    return frozenset(name for folder in folders for name in _filed_under(folder, split))


def _place(name: str) -> float:
    """A number in 0..1 that follows from the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
