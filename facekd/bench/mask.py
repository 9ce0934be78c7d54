"""Mask heads side by side: what each costs, and what one judge finds on the same crops in the same run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facekd.bench.costs import Cost, measure_costs
from facekd.bench.plots import new_figure, save_figure
from facekd.errors import ModelError
from facekd.evaluation.progress import Progress, silently
from facekd.recognition.evaluate_crops import evaluate_mask
from facekd.recognition.mask import MASK_STATUSES, MaskHead
from facekd.recognition.preprocessing import ALIGNED_CROP
from facekd.zoo import ModelRecord, find_model


@dataclass(frozen=True, slots=True)
class MaskRow:
    """One mask head in the table.

    Attributes:
        name: the user's.
        cost: measured in this run.
        figures: of `facekd.evaluation.classification.classification_figures`.
    """

    name: str
    cost: Cost
    figures: dict[str, Any]


def find_mask_head(model: str | os.PathLike[str]) -> ModelRecord:
    """The record of a mask head; an .onnx file without one beside it is taken to want facekd's aligned crops.

    Raises:
        ConfigError: no such model in the zoo.
        ModelError: the file or its record is missing or damaged.
    """
    path = Path(model)
    if path.suffix != ".onnx" or path.with_suffix(".toml").is_file():
        return find_model(model)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read the mask head {path}: {error}") from error
    return ModelRecord(
        name=path.stem,
        task="mask",
        file=path.name,
        sha256=digest,
        preprocessing=ALIGNED_CROP,
        folder=path.resolve().parent,
    )


def compare_mask_heads(
    models: Mapping[str, str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    split: str = "test",
    rounds: int = 50,
    threads: int = 1,
    progress: Progress = silently,
) -> list[MaskRow]:
    """Measure several mask heads: costs in turns, figures by `facekd evaluate mask`'s function on the same crops.

    Args:
        models: by the name of the row: a model of the zoo, or an .onnx file.
        folder: with ``mask.csv`` and its zips.
        split: which part of it.
        rounds: the time is the median over so many.
        threads: of ONNX Runtime while time and memory are measured.
        progress: shows how far it is.

    Raises:
        ConfigError, ModelError, DataError: a model or the crops are missing or damaged.
    """
    records = {name: find_mask_head(model) for name, model in models.items()}
    figures = {
        name: evaluate_mask(folder, split, MaskHead(record, threads), progress) for name, record in records.items()
    }
    size = (1, 3, ALIGNED_CROP.height, ALIGNED_CROP.width)
    picture = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
    costs = measure_costs({name: record.path for name, record in records.items()}, picture, rounds, threads, progress)
    return [MaskRow(name, costs[name], figures[name]) for name in records]


def as_data(rows: list[MaskRow]) -> list[dict[str, Any]]:
    """The rows as JSON has them; the first is what the others are compared with."""
    first = rows[0]
    return [
        {
            "name": row.name,
            "parameters": row.cost.parameters,
            "multiply_adds": row.cost.multiply_adds,
            "file_bytes": row.cost.file_bytes,
            "peak_mib": row.cost.peak_mib,
            "median_ms": row.cost.time.median_ms,
            "low_ms": row.cost.time.low_ms,
            "high_ms": row.cost.time.high_ms,
            "accuracy": row.figures["accuracy"],
            "recall": row.figures["recall"],
            "confusion": row.figures["confusion"],
            "times_smaller": first.cost.parameters / row.cost.parameters,
            "times_faster": first.cost.time.median_ms / row.cost.time.median_ms,
            "points_below": 100 * (first.figures["accuracy"] - row.figures["accuracy"]),
        }
        for row in rows
    ]


def as_markdown(rows: list[MaskRow], split: str, threads: int = 1) -> str:
    """The table for a page of documentation."""
    count = rows[0].figures["images"]
    head = ["network", "parameters", "multiply-adds", "file", "peak memory", "CPU time", f"accuracy ({split})"]
    head += [f"recall {status}" for status in MASK_STATUSES]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row, values in zip(rows, as_data(rows), strict=True):
        compared = "" if row is rows[0] else f" ({values['times_smaller']:.1f}x smaller)"
        faster = "" if row is rows[0] else f" ({values['times_faster']:.1f}x faster)"
        cells = [
            row.name,
            f"{row.cost.parameters:,}{compared}",
            f"{row.cost.multiply_adds / 1e6:,.1f} M",
            f"{row.cost.file_bytes / 1e6:.2f} MB",
            f"{row.cost.peak_mib:.1f} MiB",
            f"{row.cost.time.median_ms:.2f} ms{faster}",
            f"{100 * row.figures['accuracy']:.2f} %",
            *(f"{row.figures['recall'][status]:.3f}" for status in MASK_STATUSES),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rounds = rows[0].cost.time.rounds
    lines += [
        "",
        f"{count} crops of `{split}`; median of {rounds} rounds in turns, {threads or 'automatic'} thread(s).",
    ]
    return "\n".join(lines) + "\n"


def plot(rows: list[MaskRow], split: str, target: Path) -> None:
    """Accuracy against time, the area of a point by the file's size; a picture file."""
    figure, axes = new_figure(6, 4)
    for row in rows:
        time, accuracy = row.cost.time, 100 * row.figures["accuracy"]
        across = [[time.median_ms - time.low_ms], [time.high_ms - time.median_ms]]
        axes.errorbar(time.median_ms, accuracy, xerr=across, color="tab:blue", capsize=3)
        axes.scatter(time.median_ms, accuracy, s=20 + 20 * row.cost.file_bytes / 1e6, color="tab:blue", alpha=0.5)
        axes.annotate(row.name, (time.median_ms, accuracy), xytext=(6, 6), textcoords="offset points")
    axes.set_xscale("log")
    axes.margins(0.25, 0.2)
    axes.set(xlabel="ms a face on the processor (median; bar: first to last decile)", ylabel=f"accuracy on {split}, %")
    axes.grid(True, which="both", alpha=0.3)
    save_figure(figure, target)
