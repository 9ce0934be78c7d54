"""Lists of pairs as files: whichever form a list has, by itself.

* one line a pair, ``first second label`` or ``label first second``: the user's own lists, and those that InsightFace's
  sets are unpacked to (``agedb_30_ann.txt``); tabs or commas between the three where names have blanks in them;
* two lines a pair, ``file label``: CALFW and CPLFW (Zheng et al. 2017, "Cross-Age LFW"; Zheng and Deng 2018,
  "Cross-Pose LFW");
* one line a pair, ``person i j`` or ``person i person j`` without a first line that counts them: RFW (Wang et al. 2019,
  "Racial Faces in the Wild"), a list for each of four groups, photographs ``person/person_0001.jpg``;
* ``.mat``: AgeDB (`facekd.evaluation.agedb`).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from facekd.errors import DataError
from facekd.evaluation.agedb import read_agedb
from facekd.evaluation.pairs import PairList

FOLDS = 10
_FORMS = (
    "wanted one line a pair, 'first second label' or 'label first second' with the label 1 for one person and 0 for "
    "two, or CALFW's and CPLFW's two lines a pair, 'file label'"
)


def read_pair_list(path: str | os.PathLike[str]) -> PairList:
    """Read a list of pairs. In text lists mated and non-mated pairs are each dealt to ten folds in the order of the
    file, which gives the folds that the field uses for CALFW, CPLFW and AgeDB-30.

    Raises:
        DataError: the file cannot be read, a line is not in the form, or there are not two folds with both kinds.
    """
    path = Path(path)
    if path.suffix.lower() == ".mat":
        return read_agedb(path).checked(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the pairs {path}: {error}") from error
    lines = [(number, _words(line)) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty; {_FORMS}")
    width = len(lines[0][1])
    if width == 2 and all(word.isdecimal() for word in lines[0][1]):
        raise DataError(f"{path} begins as LFW's pairs.txt does: use facekd evaluate lfw DIR; here {_FORMS}")
    if all(_counts_photographs(words) for _, words in lines):
        rows = [_by_number(words) for _, words in lines]
        return _dealt(rows, path)
    if width not in (2, 3):
        raise DataError(f"{path}, line {lines[0][0]}: {' '.join(lines[0][1])!r} has {width} words; {_FORMS}")
    for number, words in lines:
        if len(words) != width:
            raise DataError(f"{path}, line {number}: {len(words)} words, the first line has {width}; {_FORMS}")
    return _dealt(_two_lines(path, lines) if width == 2 else _one_line(path, lines), path)


def _dealt(rows: list[tuple[str, str, bool]], path: Path) -> PairList:
    """Pairs in ten folds: mated and non-mated ones each in their order."""
    mated = np.array([row[2] for row in rows], bool)
    folds = np.empty(len(mated), np.int64)
    for kind in (True, False):
        count = int((mated == kind).sum())
        folds[mated == kind] = np.arange(count) * FOLDS // max(count, 1)
    return PairList(tuple(row[0] for row in rows), tuple(row[1] for row in rows), mated, folds).checked(path)


def _words(line: str) -> list[str]:
    separator = next((mark for mark in ("\t", ",") if mark in line), None)
    return [word.strip() for word in line.strip().split(separator)]


def _counts_photographs(words: list[str]) -> bool:
    """Whether a line has the form ``person i j`` or ``person i person j``."""
    return len(words) in (3, 4) and words[1].isdecimal() and words[-1].isdecimal()


def _by_number(words: list[str]) -> tuple[str, str, bool]:
    one, i, *other, j = words
    names = [f"{person}/{person}_{int(k):04d}.jpg" for person, k in ((one, i), (other[0] if other else one, j))]
    return names[0], names[1], not other


def _one_line(path: Path, lines: list[tuple[int, list[str]]]) -> list[tuple[str, str, bool]]:
    place = next((k for k in (2, 0) if all(words[k] in ("0", "1") for _, words in lines)), None)
    if place is None:
        number, words = next((entry for entry in lines if not {entry[1][0], entry[1][2]} & {"0", "1"}), lines[0])
        raise DataError(f"{path}, line {number}: no label 0 or 1 in the same place as in the others: {words}; {_FORMS}")
    names = [[word for k, word in enumerate(words) if k != place] for _, words in lines]
    return [(pair[0], pair[1], words[place] == "1") for pair, (_, words) in zip(names, lines, strict=True)]


def _two_lines(path: Path, lines: list[tuple[int, list[str]]]) -> list[tuple[str, str, bool]]:
    if len(lines) % 2:
        raise DataError(f"{path}: {len(lines)} lines; a pair has two, 'file label' each")
    rows = []
    for (number, one), (_, other) in zip(lines[::2], lines[1::2], strict=True):
        if not (one[1].isdecimal() and other[1].isdecimal()):
            raise DataError(f"{path}, line {number}: wanted two lines 'file label', got {[one, other]}")
        labels = [words[1] != "0" for words in (one, other)]
        if labels[0] != labels[1]:
            raise DataError(f"{path}, line {number}: the two labels of a pair contradict each other: {[one, other]}")
        rows.append((one[0], other[0], labels[0]))
    return rows
