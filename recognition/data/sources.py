"""Training crops from whatever layout a folder has, joined to one set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from facekd.errors import DataError
from facekd.recognition.data.encoded import joined_crops
from facekd.recognition.data.identity_folders import read_identity_folders
from facekd.recognition.data.record_io import read_record_faces
from facekd.recognition.data.shards import TABLE, FaceSet, read_faces, read_teacher
from facekd.recognition.data.webdataset import read_webdataset


def read_training(folders: Sequence[Path], *, teacher: str | None = None) -> FaceSet:
    """The training crops of one or more folders as one set; the same name in two folders is one person.

    A folder may hold shards with ``faces.csv`` (its ``train`` split), ``train.rec`` and ``train.idx``, ``*.tar``, or
    one folder of aligned crops a person. All but the first stay encoded until used. People that a record file or a
    tar merely numbers are its own: the 7 of one set is not the 7 of another.

    Args:
        folders: in any mixture.
        teacher: read ``teacher_NAME.npy`` of each folder, a row for each crop in the reader's order.

    Raises:
        DataError: a folder has no known layout, or its files are missing, damaged or contradict each other.
    """
    tables = [folder for folder in folders if (folder / TABLE).is_file()]
    others = [folder for folder in folders if folder not in tables]
    sets = [read_faces(tables, "train", teacher=teacher)] if tables or not others else []
    sets += [_read_other(folder, teacher) for folder in others]
    return sets[0] if len(sets) == 1 else join_sets(sets)


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


def _read_other(folder: Path, teacher: str | None) -> FaceSet:
    tars = sorted(folder.glob("*.tar"))
    if (folder / "train.rec").is_file():
        faces = read_record_faces(folder)
    elif tars:
        faces = read_webdataset(tars)
    elif folder.is_dir() and any(path.is_dir() for path in folder.iterdir()):
        faces = read_identity_folders(folder)
    else:
        layouts = f"{TABLE} (facekd prepare makes it), train.rec with train.idx, *.tar, or a folder a person"
        raise DataError(f"{folder} holds no crops to train on; wanted {layouts}")
    people = tuple(f"{folder.name}/{name}" if name.isdigit() else name for name in faces.people)
    embeddings = None if teacher is None else read_teacher(folder, teacher, len(faces))
    return replace(faces, people=people, teacher=embeddings)
