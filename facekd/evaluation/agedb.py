"""AgeDB's own protocols: the ``.mat`` files with the pairs of ten folds, by age difference.

Moschoglou et al. 2017, "AgeDB: the first manually collected, in-the-wild age database" (CVPR workshops): ten folds of
300 mated and 300 non-mated pairs; in the hardest protocol the two photographs of a person are 30 years apart.

AgeDB-30 is ``04_FINAL_protocol_30_years.mat`` with the photographs in ``03_Protocol_Images``. No description of the
file comes with the photographs; its layout is taken from three public programs that read it and agree (InsightFace's
packer of ``agedb_30.bin``, FaceX-Zoo's parser of pairs, a converter to LFW's form). ``splits`` is a column of cells,
one a fold; each holds a structure whose first field is a 2 by N cell array and whose second is 1 by N labels: 1 for one
person, -1 (or 0) for two. Each cell of the array holds a structure whose first field is a photograph's name without
``.jpg``. Fields are taken by their place, as all three do, for their names are nowhere said. The files of the other age
differences are described nowhere; they are read if they have this form.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.evaluation.pairs import PairList

_WANTED = "wanted AgeDB's protocol, such as 04_FINAL_protocol_30_years.mat"


def read_agedb(path: str | os.PathLike[str]) -> PairList:
    """Read a protocol of AgeDB; photographs are named with ``.jpg``.

    Raises:
        DataError: the file cannot be read, or is laid out otherwise.
    """
    from scipy.io import loadmat  # takes a moment, and most lists are text

    path = Path(path)
    try:
        content = loadmat(path)
    except Exception as error:  # of damaged files loadmat says many things
        raise DataError(f"Cannot read {path}: {error!r}; {_WANTED}") from error
    if "splits" not in content:
        names = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise DataError(f"{path} holds {names}, not 'splits'; {_WANTED}")
    first: list[str] = []
    second: list[str] = []
    same: list[bool] = []
    folds: list[int] = []
    try:
        for fold, cell in enumerate(content["splits"].ravel()):
            names, labels = (cell[0, 0][place] for place in (0, 1))
            marks = [int(mark) for mark in np.ravel(labels)]
            rows = [[_name(entry) for entry in row] for row in names]
            if len(rows) != 2 or not len(rows[0]) == len(rows[1]) == len(marks) or not set(marks) <= {-1, 0, 1}:
                raise ValueError(f"fold {fold + 1} has {names.shape} photographs and the labels {sorted(set(marks))}")
            first += rows[0]
            second += rows[1]
            same += [mark == 1 for mark in marks]
            folds += [fold] * len(marks)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is laid out otherwise than AgeDB's known protocol: {error}; {_WANTED}") from error
    return PairList(tuple(first), tuple(second), np.array(same, bool), np.array(folds, np.int64))


def _name(entry: Any) -> str:
    """The photograph that one cell names: the first field of the structure in it."""
    return f"{np.ravel(entry[0, 0][0])[0]}.jpg"
