"""Pair lists of CALFW and CPLFW: two lines ``file label`` a pair, the label 0 on both for different people.

Zheng et al. 2017, "Cross-Age LFW"; Zheng and Deng 2018, "Cross-Pose LFW".
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

import numpy as np

from facekd.errors import DataError
from facekd.evaluation.pairs import PairList

FOLDS = 10
_NUMBERED = re.compile(r"(.+)_\d+\.\w+")


def person_of(name: str) -> str:
    """The person of a photograph ``Ada_Lovelace_0001.jpg``; empty where the name has another form."""
    found = _NUMBERED.fullmatch(PurePosixPath(name).name)
    return found[1] if found else ""


def names_people(pairs: PairList) -> bool:
    """Whether ``person_of`` can be believed: every name has the form, and mated photographs are of one person by it."""
    people = [[person_of(name) for name in side] for side in (pairs.first, pairs.second)]
    alike = all(a == b for a, b, same in zip(*people, pairs.same.tolist(), strict=True) if same)
    return alike and all(all(side) for side in people)


def read_two_line_pairs(path: str | os.PathLike[str]) -> PairList:
    """Read such a list; mated and non-mated pairs are each dealt to ten folds in the order of the file.

    Raises:
        DataError: the file cannot be read, a line is not in the form, or the labels of a pair contradict each other.
    """
    path = Path(path)
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the pairs {path}: {error}") from error
    if not lines or len(lines) % 2:
        raise DataError(f"{path}: {len(lines)} lines; a pair has two, 'file label' each")
    first, second, same = [], [], []
    for number in range(0, len(lines), 2):
        pair = lines[number : number + 2]
        if any(len(words) != 2 or not words[1].isdecimal() for words in pair):
            raise DataError(f"{path}, line {number + 1}: wanted two lines 'file label', got {pair}")
        labels = [words[1] != "0" for words in pair]
        if labels[0] != labels[1]:
            raise DataError(f"{path}, line {number + 1}: the two labels of a pair contradict each other: {pair}")
        first.append(pair[0][0])
        second.append(pair[1][0])
        same.append(labels[0])
    mated = np.array(same)
    folds = np.empty(len(mated), np.int64)
    for kind in (True, False):
        count = int((mated == kind).sum())
        folds[mated == kind] = np.arange(count) * FOLDS // max(count, 1)
    return PairList(tuple(first), tuple(second), mated, folds)
