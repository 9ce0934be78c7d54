"""Labeled Faces in the Wild: ``pairs.txt`` and landmarks.

Huang et al. 2007, "Labeled Faces in the Wild" (technical report 07-49): view 2 has ten folds of 300 mated and 300
non-mated pairs. Photographs are named ``Person/Person_0001`` here, without suffix, because copies differ in it.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.evaluation.pairs import PairList
from facekd.evaluation.photographs import Photographs, folder_or_archive, refuse_missing

POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")


def read_pairs(path: str | os.PathLike[str]) -> PairList:
    """Read ``pairs.txt``.

    A line ``folds pairs``, then in each fold the mated pairs (``name i j``) and as many non-mated ones
    (``name i other j``).

    Raises:
        DataError: the file is missing or not in this form; says which line.
    """
    path = Path(path)
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"Cannot read the pairs {path}: {error}; LFW's pairs.txt (view 2) belongs beside the photographs"
        ) from error
    if not lines or len(lines[0]) != 2 or not all(word.isdecimal() for word in lines[0]):
        raise DataError(f"{path}: the first line must be 'folds pairs', such as '10 300'")
    folds, each = int(lines[0][0]), int(lines[0][1])
    if len(lines) - 1 != 2 * folds * each:
        raise DataError(f"{path}: {len(lines) - 1} pairs; {folds} folds of {each} + {each} are {2 * folds * each}")
    first, second, same = [], [], []
    for number, words in enumerate(lines[1:], start=2):
        mated = (number - 2) % (2 * each) < each
        try:
            if mated:
                name, i, j = words
                other = name
            else:
                name, i, other, j = words
            first.append(photograph_name(name, int(i)))
            second.append(photograph_name(other, int(j)))
        except ValueError as error:
            wanted = "'name i j'" if mated else "'name i other j'"
            raise DataError(f"{path}, line {number}: wanted {wanted}, got {' '.join(words)!r}") from error
        same.append(mated)
    pairs = PairList(tuple(first), tuple(second), np.array(same, bool), np.repeat(np.arange(folds), 2 * each))
    return pairs.checked(path)


def photograph_name(person: str, number: int) -> str:
    """The name of a person's photograph: ``Person/Person_0001``."""
    return f"{person}/{person}_{number:04d}"


def person_of(name: str) -> str:
    """The person of a photograph ``Person/Person_0001``."""
    return name.partition("/")[0]


def read_landmarks(path: str | os.PathLike[str]) -> dict[str, NDArray[np.float64]]:
    """Read ``landmarks.csv`` (columns file, left_eye_x, left_eye_y, …): name without suffix to points (5, 2).

    Raises:
        DataError: the file is missing, or a column or a number is; it lists no photograph; a number is not finite, or
            two lines have other points of one photograph (says which line).
    """
    columns = [f"{point}_{axis}" for point in POINTS for axis in "xy"]
    landmarks: dict[str, NDArray[np.float64]] = {}
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                name, points = without_suffix(row["file"]), np.array([float(row[column]) for column in columns])
                if not np.isfinite(points).all():  # it would count as a face that the model missed
                    raise DataError(
                        f"{path}, line {reader.line_num}: a point of {name} is not finite; wanted pixels: mend the "
                        "table, or evaluate with --mode whole"
                    )
                if not np.array_equal(landmarks.setdefault(name, points.reshape(5, 2)).ravel(), points):
                    raise DataError(f"{path}, line {reader.line_num}: an earlier line has other points of {name}")
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"Cannot read the landmarks {path}: {error!r}. Aligned evaluation needs a table with the columns file, "
            f"{', '.join(columns)}; without it, evaluate with --mode whole."
        ) from error
    if not landmarks:
        raise DataError(f"{path} lists no photograph; evaluate with --mode whole, or put the table in its place")
    return landmarks


def without_suffix(name: str) -> str:
    """``Person/Person_0001`` for ``Person/Person_0001.jpg``."""
    return PurePosixPath(name).with_suffix("").as_posix()


class LfwPhotographs:
    """The photographs of an LFW folder by name without suffix: ``photographs.zip``, ``photographs/``, or folders of
    people in the folder itself or one below it (``lfw/``, ``lfw-deepfunneled/``).

    Raises:
        DataError: no photographs are found.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._photographs: Photographs = folder_or_archive(Path(root), "photographs")
        self._files: dict[str, str] = {}
        for file in self._photographs.names():
            path = PurePosixPath(file)
            if len(path.parts) >= 2 and path.stem.startswith(path.parent.name):
                self._files[f"{path.parent.name}/{path.stem}"] = file
        if not self._files:
            raise DataError(f"No photographs of the form Person/Person_0001.jpg in {root}")

    def __len__(self) -> int:
        return len(self._files)

    def require(self, names: Sequence[str], wanted_by: str | os.PathLike[str]) -> None:
        """Look whether photographs are there, before hours are spent on some of them.

        Raises:
            DataError: some are missing; says how many, and the first.
        """
        missing = [name for name in names if name not in self._files]
        refuse_missing(missing, names, wanted_by, self._photographs.root)

    def file_name(self, name: str) -> str:
        """The file's own name with suffix, without folders.

        Raises:
            DataError: there is no such photograph.
        """
        if name not in self._files:
            raise DataError(f"LFW's photograph {name} is not in {self._photographs.root}")
        return PurePosixPath(self._files[name]).name

    def read(self, name: str) -> bytes:
        """The bytes of a photograph.

        Raises:
            DataError: there is no such photograph.
        """
        self.file_name(name)
        return self._photographs.read(self._files[name])
