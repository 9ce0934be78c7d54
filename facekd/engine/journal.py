"""What a run leaves to read: lines in a log, TensorBoard events, a table and a picture of the curves."""

from __future__ import annotations

import csv
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from facekd.whole_files import whole_file


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class Journal:
    """Writes the history of a run into its folder, appending when the run is resumed.

    Files: ``history.csv`` (step, name, value), ``events.*`` for TensorBoard, ``curves.png``.

    Args:
        folder: the run's folder.
        console: where lines for people go.
        resumed_at: append to what is there up to this step instead of starting anew: after a kill the rows go further
            than the checkpoint, and their steps are done again.
    """

    def __init__(self, folder: Path, console: Console, *, resumed_at: int | None = None) -> None:
        self.folder = folder
        self.console = console
        history = folder / "history.csv"
        kept = [] if resumed_at is None else [row for row in _rows(history) if row[0] <= resumed_at]
        with whole_file(history) as part, part.open("w", newline="", encoding="utf-8") as table:
            csv.writer(table).writerows([("step", "name", "value"), *kept])
        self._table: TextIO = history.open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._table)
        self._events = SummaryWriter(str(folder), purge_step=None if resumed_at is None else resumed_at + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record figures of one step."""
        for name, value in values.items():
            self._rows.writerow((step, name, f"{value:.6g}"))
            self._events.add_scalar(name, value, step)
        self._table.flush()

    def say(self, text: str) -> None:
        """A line for people."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Finish the files and draw the curves."""
        self._table.close()
        self._events.close()
        draw_curves(self.folder / "history.csv", self.folder / "curves.png")


def _rows(history: Path) -> Iterator[tuple[int, str, str]]:
    """Step, name and value of each row; a line that a kill or a full disk cut off is left out."""
    if not history.is_file():
        return
    with history.open(newline="", encoding="utf-8", errors="replace") as table:
        for line in csv.reader(table):
            try:
                step, name, value = line
                float(value)
                yield int(step), name, value
            except ValueError:  # the heading, too
                continue


def draw_curves(history: Path, picture: Path) -> None:
    """Draw every series of a history as small multiples into a PNG."""
    import matplotlib  # only here: it is slow to import, and a run needs it once

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series: dict[str, tuple[list[int], list[float]]] = {}
    for step, name, value in _rows(history):
        steps, values = series.setdefault(name, ([], []))
        steps.append(step)
        values.append(float(value))
    if not series:
        return
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(5 * columns, 3 * rows), squeeze=False)
    for axis in axes.flat[len(series) :]:
        axis.set_axis_off()
    for axis, (name, (steps, values)) in zip(axes.flat, sorted(series.items()), strict=False):
        axis.plot(steps, values, linewidth=1, marker="." if len(steps) < 40 else None)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
