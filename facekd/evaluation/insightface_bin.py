"""InsightFace's verification sets (``lfw.bin``, ``cfp_fp.bin``, ``agedb_30.bin``, ``calfw.bin``, ``cplfw.bin``, …).

Such a file is a pickle of (2 N encoded aligned 112x112 pictures, N flags). Pickles can run any code when they are read,
so only plain containers and NumPy arrays are let in; everything else is refused by name.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.evaluation.pairs import PairList

_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),  # how protocol 2 writes bytes
        *((module, name) for module in _NUMPY_MODULES for name in ("_reconstruct", "scalar")),
    }
)
FOLDS = 10


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows plain containers and NumPy arrays, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Look up a global only if it is on the short list."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no list of pictures needs")
        return super().find_class(module, name)


def read_bin(path: str | os.PathLike[str]) -> tuple[dict[str, bytes], PairList]:
    """Read a verification set.

    Returns:
        (encoded picture by name "0", "1", …; the pairs (0, 1), (2, 3), … in ten folds of equal size, as InsightFace's
        own evaluation splits them).

    Raises:
        DataError: the file cannot be read, holds anything but pictures and flags, or their numbers do not fit.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file, encoding="bytes").load()
    except Exception as error:  # a hostile pickle can raise anything
        raise DataError(f"Cannot read {path}: {error}; wanted a set of InsightFace such as agedb_30.bin") from error
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise DataError(f"{path} is no verification set: wanted (pictures, flags)")
    pictures, flags = content
    if not isinstance(pictures, Sequence) or not isinstance(flags, Sequence | np.ndarray):
        raise DataError(f"{path} is no verification set: wanted a list of pictures and a list of flags")
    if len(pictures) != 2 * len(flags) or not len(flags):
        raise DataError(f"{path}: {len(pictures)} pictures and {len(flags)} flags; wanted two pictures a flag")
    encoded = {str(k): _bytes(picture, path, k) for k, picture in enumerate(pictures)}
    count = len(flags)
    return encoded, PairList(
        first=tuple(str(2 * k) for k in range(count)),
        second=tuple(str(2 * k + 1) for k in range(count)),
        same=np.array([bool(flag) for flag in flags]),
        folds=np.arange(count) * FOLDS // count,
    ).checked(path)


def _bytes(picture: object, path: Path, number: int) -> bytes:
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
        return picture.tobytes()
    if isinstance(picture, bytes | bytearray):
        return bytes(picture)
    raise DataError(f"{path}: picture {number} is {type(picture).__name__}, not the bytes of a picture")
