"""False-match rates within groups of people: a verifier is only as safe as in the group where it errs most.

Grother, Ngan and Hanaoka 2019, "Face Recognition Vendor Test, Part 3: Demographic Effects" (NISTIR 8280): one threshold
for everybody, and the false-match rate of comparisons of different people of one group.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.errors import ConfigError, DataError
from facekd.evaluation.all_pairs import blocks, check_unit_length

GroupRates = dict[str, dict[str, dict[str, float | int]]]


def false_match_rates_by_group(
    embeddings: NDArray[np.floating[Any]],
    groups: Sequence[str],
    thresholds: Mapping[str, float],
    identities: Sequence[str] | None = None,
    chunk: int = 1024,
) -> GroupRates:
    """False-match rate within each group of people, over all pairs of different crops.

    Crops without a known identity count as different people; crops known to be of one person are not compared. Where a
    source holds several unlabelled photographs of a person the rate is therefore too high, never too low.

    Args:
        embeddings: (N, D) of unit length.
        groups: N group names; an empty one leaves the crop out.
        thresholds: least accepted cosine, by the name of its rate.
        identities: N names, empty where unknown; None if none is known.
        chunk: rows of one matrix product; changes memory, not results.

    Returns:
        ``{rate: {group: {"fmr", "false_matches", "pairs", "crops"}}}``, groups in alphabetical order; fmr is NaN
        without a pair.
    """
    check_unit_length(embeddings)
    known = np.array(["" if identities is None else name for name in (identities or groups)], dtype=object)
    of_group = np.array(list(groups), dtype=object)
    result: GroupRates = {rate: {} for rate in thresholds}
    for group in sorted({name for name in groups if name}):
        rows = np.flatnonzero(of_group == group)
        matrix, names = embeddings[rows].astype(np.float32), known[rows]
        pairs, matches = 0, dict.fromkeys(thresholds, 0)
        for start, scores in blocks(matrix, chunk):
            above = np.arange(scores.shape[1])[None, :] > np.arange(scores.shape[0])[:, None]
            own = names[start : start + len(scores), None]
            different = scores[above & ~((own == names[None, start:]) & (own != ""))]
            pairs += len(different)
            for rate, threshold in thresholds.items():
                matches[rate] += int((different >= threshold).sum())
        for rate, count in matches.items():
            fmr = count / pairs if pairs else float("nan")
            result[rate][group] = {"fmr": fmr, "false_matches": count, "pairs": pairs, "crops": len(rows)}
    return result


class GroupTable:
    """Groups of photographs or of people, from a table that the user brings.

    Args:
        path: a ``.csv`` with a column ``file`` (photographs, with or without folder and suffix) or ``person``.
        column: which column holds the groups; may be left out where the table has only one other.

    Raises:
        ConfigError: the column is not in the table, or has to be named.
        DataError: the table cannot be read, has neither ``file`` nor ``person``, or names one of them twice with two
            groups.
    """

    def __init__(self, path: str | os.PathLike[str], column: str | None = None) -> None:
        self.path = Path(path)
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                rows, columns = list(reader), list(reader.fieldnames or [])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"Cannot read the groups {self.path}: {error}") from error
        key = next((name for name in ("file", "person") if name in columns), None)
        if key is None:
            raise DataError(f"{self.path} needs a column 'file' or 'person'; it has {', '.join(columns) or 'none'}")
        others = [name for name in columns if name != key]
        if column is None and len(others) != 1:
            raise ConfigError(f"{self.path} has the columns {', '.join(others) or 'none'}: name one with --group")
        self.column = others[0] if column is None else column
        if self.column not in others:
            raise ConfigError(f"{self.path} has no column {self.column!r}, only {', '.join(others)}")
        self._groups: dict[str, str] = {}
        for number, row in enumerate(rows, start=2):
            name = _plain(row[key] or "") if key == "file" else (row[key] or "")
            group = (row[self.column] or "").strip()
            if self._groups.setdefault(name, group) != group:
                raise DataError(f"{self.path}, line {number}: {name!r} stands in two groups, {group!r} is the second")

    def of(self, photograph: str, person: str) -> str:
        """The group of a photograph, by its path, its file name or its person; empty where the table is silent."""
        plain = _plain(photograph)
        names = (plain, plain.rpartition("/")[2], person)
        return next((self._groups[name] for name in names if name in self._groups), "")

    def require(self, photographs: Sequence[str], person_of: Callable[[str], str]) -> None:
        """Look whether the table speaks of a protocol's photographs at all, before they are embedded.

        Raises:
            DataError: it has a group for none of them.
        """
        if not any(self.of(name, person_of(name)) for name in photographs):
            known = ", ".join(list(self._groups)[:3]) or "nothing"
            wanted = ", ".join(photographs[:2])
            raise DataError(f"{self.path} has no group for any photograph ({wanted}, …); it names {known}, …")


def photograph_rates_by_group(
    embeddings: Mapping[str, NDArray[np.floating[Any]] | None],
    groups: GroupTable,
    person_of: Callable[[str], str],
    thresholds: Mapping[str, float],
) -> tuple[GroupRates, dict[str, dict[str, float | int]]]:
    """`false_match_rates_by_group` of a pair protocol's photographs: all pairs of different people, listed or not.

    Args:
        embeddings: by photograph; None where no face was found, which leaves the photograph out.
        groups: what the user knows.
        person_of: the person of a photograph.
        thresholds: as there.

    Returns:
        (rates within each group; by the name of the rate the same over everybody, in whatever group or none: the
        listed pairs are few, so that their own share of false matches is no measure for the groups).
    """
    found = {name: vector for name, vector in embeddings.items() if vector is not None}
    people = [person_of(name) for name in found]
    labels = [groups.of(name, person) for name, person in zip(found, people, strict=True)]
    matrix = np.stack(list(found.values()))
    everybody = false_match_rates_by_group(matrix, ["everybody"] * len(people), thresholds, people)
    rates = false_match_rates_by_group(matrix, labels, thresholds, people)
    return rates, {rate: groups["everybody"] for rate, groups in everybody.items()}


def _plain(name: str) -> str:
    """A photograph's path without its suffix, if it has one (``Ada_0001`` has none, and neither has ``J.R.R_0001``)."""
    path = PurePosixPath(name.strip())
    return path.with_suffix("").as_posix() if path.suffix[1:].isalpha() else path.as_posix()
