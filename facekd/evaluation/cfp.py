"""Celebrities in Frontal-Profile: pair lists in the data set's own layout.

Sengupta et al. 2016, "Frontal to Profile Face Verification in the Wild" (WACV): ten splits of 350 + 350 pairs, frontal
against frontal (FF) and frontal against profile (FP).
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import numpy as np

from facekd.errors import DataError
from facekd.evaluation.pairs import PairList

PROTOCOLS = ("FF", "FP")


def read_cfp(root: str | os.PathLike[str]) -> dict[str, PairList]:
    """Read both protocols below a folder with ``Data/Images`` and ``Protocol``.

    Returns:
        ``{"FF": …, "FP": …}``; photographs are named by their path below `root`. People may stand in ``train/`` and
        ``test/`` below ``Images``.

    Raises:
        DataError: a list is missing or not in the form, or a photograph that it names is not there.
    """
    root = Path(root)
    lists = {kind: _photographs(root, root / "Protocol" / f"Pair_list_{kind}.txt") for kind in "FP"}
    return {name: _protocol(root / "Protocol" / "Split" / name, lists["F"], lists[name[1]]) for name in PROTOCOLS}


def person_of(name: str) -> str:
    """The person of a photograph ``Data/Images/001/frontal/01.jpg``."""
    return PurePosixPath(name).parts[-3]


def _photographs(root: Path, path: Path) -> dict[int, str]:
    """Number to photograph, from lines ``1 ../Data/Images/001/frontal/01.jpg``."""
    people = _people(root)
    result: dict[int, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        words = line.split(maxsplit=1)
        parts = PurePosixPath(words[-1].replace("\\", "/")).parts
        if len(words) != 2 or not words[0].isdecimal() or len(parts) < 3:
            raise DataError(f"{path}, line {number}: wanted 'number path/NNN/frontal/01.jpg', got {line!r}")
        person, pose, file = parts[-3:]
        if person not in people:
            raise DataError(f"{path}, line {number}: no folder of person {person} in {root / 'Data' / 'Images'}")
        result[int(words[0])] = (people[person] / pose / file).relative_to(root).as_posix()
    return result


def _people(root: Path) -> dict[str, Path]:
    images = root / "Data" / "Images"
    folders = [folder for place in (images, images / "train", images / "test") for folder in _folders(place)]
    people = {folder.name: folder for folder in folders if folder.name not in ("train", "test")}
    if not people:
        raise DataError(f"No folders of people in {images}; wanted Data/Images/NNN/frontal and …/profile")
    return people


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def _protocol(folder: Path, first: dict[int, str], second: dict[int, str]) -> PairList:
    splits = _folders(folder)
    if not splits:
        raise DataError(f"No splits in {folder}; wanted {folder.name}/01/same.txt and diff.txt, to 10")
    pairs: list[tuple[str, str, bool, int]] = []
    for fold, split in enumerate(splits):
        for file, same in (("same.txt", True), ("diff.txt", False)):
            for number, line in enumerate(_lines(split / file), start=1):
                try:
                    i, j = (int(word) for word in line.split(","))
                    pairs.append((first[i], second[j], same, fold))
                except (ValueError, KeyError) as error:
                    raise DataError(
                        f"{split / file}, line {number}: {line!r} is no pair of listed photographs"
                    ) from error
    return PairList(
        tuple(pair[0] for pair in pairs),
        tuple(pair[1] for pair in pairs),
        np.array([pair[2] for pair in pairs], bool),
        np.array([pair[3] for pair in pairs], np.int64),
    ).checked(folder)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"Cannot read {path}: {error}; wanted CFP's own layout with Data/Images and Protocol"
        ) from error
