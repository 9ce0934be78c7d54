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
        columns: that it must have, ``file`` among them; others as they come.

    Raises:
        DataError: it cannot be read, lists no crop, or lacks a column (names those that it has); a line is shorter or
            longer than the header, or names a crop that an earlier line names (says which line).
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            rows, numbers = [], []
            for row in reader:
                rows.append(row)
                numbers.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"Cannot read the table {path}: {error}; facekd prepare FOLDER OUT writes faces.csv with its crops"
        ) from error
    if not rows:
        raise DataError(f"{path} lists no crop")
    if missing := [name for name in columns if name not in rows[0]]:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}")
    seen: dict[tuple[str, str], int] = {}
    for number, row in zip(numbers, rows, strict=True):
        surplus = row.get(None, [])  # type: ignore[call-overload]
        if surplus or None in row.values():
            values = len(row) - 1 + len(surplus) if surplus else sum(value is not None for value in row.values())
            raise DataError(
                f"{path}, line {number}: {values} values, the header names {len(reader.fieldnames or ())} columns; "
                + ("a value with a comma needs quotes" if surplus else "was the file cut off while it was copied?")
            )
        crop = (row.get("shard", ""), row["file"])  # counted twice it would be a mated pair with itself
        if (earlier := seen.setdefault(crop, number)) != number:
            raise DataError(f"{path}, line {number}: {'/'.join(filter(None, crop))} stands on line {earlier} already")
    return rows
