"""The tables of crops, ``faces.csv`` and ``mask.csv``: a line a crop."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from facekd.errors import DataError


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The lines of a table, column by name.

    Args:
        path: of the file.
        columns: that it must have; others as they come.

    Raises:
        DataError: it cannot be read, lists no crop, or lacks a column; names those that it has.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"Cannot read the table {path}: {error}; facekd prepare FOLDER OUT writes faces.csv with its crops"
        ) from error
    if not rows:
        raise DataError(f"{path} lists no crop")
    if missing := [name for name in columns if name not in rows[0]]:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(rows[0])}")
    return rows
