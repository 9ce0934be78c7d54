"""Running embedders and the mask head over folders of aligned crops: all pairs, groups, mask status."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facekd.errors import ConfigError, DataError, ImageError
from facekd.evaluation.all_pairs import AllPairs, compare_all, crop_figures
from facekd.evaluation.bootstrap import bootstrap_tar
from facekd.evaluation.classification import classification_figures
from facekd.evaluation.groups import false_match_rates_by_group
from facekd.evaluation.photographs import Photographs
from facekd.evaluation.progress import Progress, silently
from facekd.evaluation.verification import RATES, rate_label
from facekd.images import load_image
from facekd.recognition.data.tables import read_table
from facekd.recognition.evaluate import BATCH, CropEmbedder, embed_crops
from facekd.recognition.mask import MASK_STATUSES, MaskResult

KEEP_ALL_CROPS = 300


class MaskTeller(Protocol):
    """What tells the mask status of crops; `facekd.recognition.mask.MaskHead` is one."""

    def predict(self, crops: NDArray[np.uint8]) -> Sequence[MaskResult]:
        """One result a crop."""


@dataclass(frozen=True, slots=True, eq=False)
class CropTable:
    """The crops of one split of a folder, as its table lists them.

    Attributes:
        root: the folder.
        rows: their lines, column by name.
        numbers: (N,) int64: where each line stands in the whole table, from 0 (embeddings on disk have that order).
        lines: of the whole table, every split.
    """

    root: Path
    rows: tuple[dict[str, str], ...]
    numbers: NDArray[np.int64]
    lines: int

    def column(self, name: str) -> list[str]:
        """One column.

        Raises:
            ConfigError: the table has no such column; names those it has.
        """
        if self.rows and name not in self.rows[0]:
            raise ConfigError(f"The table in {self.root} has no column {name!r}, only {', '.join(self.rows[0])}")
        return [row[name] for row in self.rows]

    def require(self, names: Sequence[str]) -> None:
        """Look whether columns are there, before anything is embedded.

        Raises:
            ConfigError: one is not; names those that the table has.
        """
        for name in names:
            self.column(name)

    def crop(self, row: dict[str, str], archives: dict[str, Photographs]) -> NDArray[np.uint8]:
        """The picture of one line, 112x112.

        Raises:
            DataError: it is missing or of another size.
        """
        shard = row.get("shard") or "."
        if shard not in archives:
            archives[shard] = Photographs(self.root / shard)
        try:
            picture = load_image(archives[shard].read(row["file"]))
        except ImageError as error:
            raise ImageError(f"{self.root / shard}: {row['file']}: {error}") from error
        if picture.shape != (112, 112, 3):
            raise DataError(f"{self.root / shard}: {row['file']} is {picture.shape[1]}x{picture.shape[0]}, not 112x112")
        return picture


def read_crop_table(root: str | os.PathLike[str], table: str, split: str) -> CropTable:
    """Read the lines of one split of ``root/table``.

    Raises:
        DataError: the table is missing or not in the form, or has no line of that split; names the splits it has.
    """
    path = Path(root) / table
    rows = read_table(path, ("file", "split"))  # without shards the files lie in the folder itself
    numbers = [number for number, row in enumerate(rows) if row["split"] == split]
    if not numbers:
        known = ", ".join(sorted({row["split"] for row in rows})) or "none"
        raise DataError(f"{path} has no line of the split {split!r}; it has {known}")
    return CropTable(Path(root), tuple(rows[k] for k in numbers), np.array(numbers, np.int64), len(rows))


def crop_embeddings(
    crops: CropTable,
    embedder: CropEmbedder | None,
    stored: str | os.PathLike[str] | None = None,
    progress: Progress = silently,
) -> NDArray[np.float32]:
    """Embeddings (N, D) of the crops of a table, computed, or taken from a file in the order of the whole table.

    Args:
        crops: the table.
        embedder: ours, or a peer; not needed with `stored`.
        stored: a ``.npy`` with one row for each line of the whole table.
        progress: shows how far it is.

    Raises:
        ConfigError: neither an embedder nor a file.
        DataError: the file cannot be read, or has not a row for each line.
    """
    if stored is not None:
        try:
            matrix = np.load(stored, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"Cannot read the embeddings {stored}: {error}") from error
        if matrix.ndim != 2 or len(matrix) != crops.lines:
            raise DataError(
                f"{stored} has shape {matrix.shape}; wanted one row for each line of the table, {crops.lines}: name "
                f"the embeddings of all crops of {crops.root}"
            )
        return np.asarray(matrix[crops.numbers], np.float32)
    if embedder is None:
        raise ConfigError("Crops need an embedder, or embeddings from a file")
    archives: dict[str, Photographs] = {}
    files: dict[str, list[str]] = {}
    for row in crops.rows:
        files.setdefault(row.get("shard") or ".", []).append(row["file"])
    for shard, names in files.items():
        archives[shard] = Photographs(crops.root / shard)
        archives[shard].require(names, f"the table of {crops.root}")
    embedded = embed_crops(
        embedder, ((str(k), crops.crop(row, archives)) for k, row in enumerate(progress(crops.rows, "embedding")))
    )
    rows = [vector for vector in embedded.values() if vector is not None]
    return np.stack(rows)


def compare_crops(crops: CropTable, embeddings: NDArray[np.float32], rates: Sequence[float] = RATES) -> AllPairs:
    """Compare every labelled crop with every other one.

    Args:
        crops: a table with the column ``identity``, empty where nobody knows.
        embeddings: (N, D) of unit length, in the table's order.
        rates: false-accept rates that thresholds will be asked for, also by a bootstrap.

    Raises:
        DataError: fewer than two people are labelled, or nobody has two crops; or the embeddings are no unit vectors.
    """
    identities = crops.column("identity")
    people = Counter(name for name in identities if name)
    if len(people) < 2:
        raise DataError(f"The split in {crops.root} has fewer than two labelled people: nothing to compare")
    if max(people.values()) < 2:
        raise DataError(f"The split in {crops.root} has only one crop of each of its {len(people)} people; wanted two")
    try:
        # Of few crops everything is kept: three in a hundred comparisons would make a poor sheet of errors.
        max_far = 1.0 if len(identities) <= KEEP_ALL_CROPS else min(3 * max(rates), 1.0)
        return compare_all(embeddings, identities, max_far)
    except ValueError as error:
        raise DataError(f"Cannot compare the crops in {crops.root}: {error}") from error


def evaluate_crops(
    crops: CropTable,
    embeddings: NDArray[np.float32],
    rates: Sequence[float] = RATES,
    replicates: int = 200,
    group_column: str | None = None,
    seed: int = 0,
    pairs: AllPairs | None = None,
) -> dict[str, Any]:
    """Figures of all pairs of labelled crops.

    Args:
        crops, embeddings, rates: as for `compare_crops`.
        replicates: draws of the bootstrap over people that gives the intervals; 0 leaves them out.
        group_column: a column with groups of people: adds each group's false-match rate, unlabelled crops included, at
            the threshold of each rate.
        seed: of the bootstrap.
        pairs: what `compare_crops` gave, for whoever has it already.

    Returns:
        The keys of `crop_figures`, ``tar_interval`` (95 %), and ``groups``: ``{rate: {group: {"fmr", …}}}``.

    Raises:
        ConfigError: the table has no such group column.
        DataError: as for `compare_crops`.
    """
    groups = None if group_column is None else crops.column(group_column)
    pairs = compare_crops(crops, embeddings, rates) if pairs is None else pairs
    figures = crop_figures(pairs, rates)
    if replicates:
        intervals = bootstrap_tar(pairs, rates, np.random.default_rng(seed), replicates)
        figures["tar_interval"] = {
            rate_label(rate): [interval.low, interval.high] for rate, interval in zip(rates, intervals, strict=True)
        }
    if groups is not None:
        figures["groups"] = false_match_rates_by_group(
            embeddings, groups, figures["thresholds"], crops.column("identity")
        )
    return figures


def evaluate_mask(
    root: str | os.PathLike[str], split: str, head: MaskTeller, progress: Progress = silently
) -> dict[str, Any]:
    """Mask status of the crops that ``mask.csv`` lists: the keys of `classification_figures`."""
    crops = read_crop_table(root, "mask.csv", split)
    archives: dict[str, Photographs] = {}
    predicted: list[str] = []
    starts = range(0, len(crops.rows), BATCH)
    for start in progress(starts, "looking"):
        batch = [crops.crop(row, archives) for row in crops.rows[start : start + BATCH]]
        predicted += [result.status for result in head.predict(np.stack(batch))]
    return classification_figures(crops.column("label"), predicted, MASK_STATUSES)
