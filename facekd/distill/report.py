"""A comparison as tables (Markdown), as a plot, and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

from facekd.bench.costs import Cost
from facekd.bench.plots import new_figure, save_figure
from facekd.distill.outcome import Outcome, Row, paired, spread, verdict


def as_data(outcome: Outcome, costs: Mapping[str, Cost]) -> dict[str, Any]:
    """The JSON of `facekd distill compare`; `figures` are those of the split `test`, `val` what runs chose by."""
    first = outcome.names[0]
    return {
        "title": outcome.title,
        "figures": list(outcome.names),
        "split": "test",
        "seeds": list(outcome.seeds),
        "steps": outcome.steps,
        "teachers": outcome.teachers,
        "alone": _row_data(outcome.alone),
        "methods": [
            {
                **_row_data(row),
                "paired": paired(outcome.alone, row, first),
                "gain": _gain(outcome, row),
                "verdict": verdict(outcome.alone.figures[first], row.figures[first]),
            }
            for row in outcome.rows
            if row.seeds
        ],
        "missing": outcome.missing,
        "costs": {
            name: {
                "parameters": cost.parameters,
                "multiply_adds": cost.multiply_adds,
                "file_bytes": cost.file_bytes,
                "median_ms": cost.time.median_ms,
                "peak_mib": cost.peak_mib,
            }
            for name, cost in costs.items()
        },
    }


def as_markdown(outcome: Outcome, costs: Mapping[str, Cost], command: str = "") -> str:
    """The tables: figures in percent, mean and standard deviation over seeds, best method by `val` first.

    Args:
        outcome: what is finished of a comparison.
        costs: of the networks, where measured.
        command: that makes the table; stands above it.
    """
    first = outcome.names[0]
    shown = [_on_split(name) for name in outcome.names]
    lines = [f"### {outcome.title}", ""]
    lines += [f"    {command}", ""] if command else []
    lines += [f"| method | val score | {' | '.join(shown)} | paired difference in {_on_split(first)} | verdict |"]
    lines += ["| --- |" + " --- |" * (len(shown) + 3)]
    for name, figures in outcome.teachers.items():
        cells = [_percent(figures[f]) if f in figures else "" for f in outcome.names]
        lines.append(f"| *teacher {name}* | | {' | '.join(cells)} | | |")
    if outcome.alone.seeds:
        lines.append(f"| {_label(outcome, outcome.alone, '**student alone**')} | {_cells(outcome.alone)} | | |")
    for row in _by_val(outcome):
        differences = paired(outcome.alone, row, first)
        difference = f"{100 * mean(differences):+.2f} ± {_percent(spread(differences))}" if differences else ""
        word = verdict(outcome.alone.figures[first], row.figures[first])
        lines.append(f"| {_label(outcome, row, row.name)} | {_cells(row)} | {difference} | {word} |")
    runs = [second for row in (outcome.alone, *outcome.rows) for second in row.seconds]
    if runs:
        lines += ["", _explanation(outcome, median(runs))]
    unfinished = [name for name, seeds in outcome.missing.items() if seeds == outcome.seeds]
    if unfinished:
        lines += ["", f"Not finished: {', '.join(unfinished)}."]
    if costs:
        lines += ["", "| network | parameters | multiply-adds | file | CPU time, one thread | peak memory |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        lines += [f"| {name} | {_cost(cost)} |" for name, cost in costs.items()]
    return "\n".join(lines) + "\n"


def _explanation(outcome: Outcome, seconds: float) -> str:
    figure = _on_split(outcome.names[0])
    few = " Of fewer than three seeds the deviation is a guess." if len(outcome.seeds) < 3 else ""
    return (
        f"Mean ± standard deviation over seeds {', '.join(map(str, outcome.seeds))}, in percent; {outcome.steps} steps "
        f"and {seconds / 60:.1f} min a run. Rows stand in the order of `val score`, by which each run's weights were "
        f"kept, too. A method helps when its mean {figure} exceeds the student's alone by more than the larger "
        "deviation; the paired difference is that of runs with the same seed, which start from the same weights and "
        f"see the same batches.{few}"
    )


def plot(outcome: Outcome, target: Path) -> None:
    """Each seed's deciding figure as a dot, mean and deviation as a bar, teachers as lines; a picture file."""
    first = outcome.names[0]
    rows = [*reversed(_by_val(outcome)), *([outcome.alone] if outcome.alone.seeds else [])]
    figure, axes = new_figure(7, 1.2 + 0.35 * len(rows))
    for height, row in enumerate(rows):
        values = [100 * value for value in row.figures[first]]
        colour = "black" if row is outcome.alone else "tab:blue"
        axes.errorbar(mean(values), height, xerr=spread(tuple(values)), fmt="o", capsize=3, color=colour)
        axes.plot(values, [height] * len(values), ".", color=colour, alpha=0.4)
    if outcome.alone.seeds:
        axes.axvline(100 * _mean(outcome.alone, first), linestyle=":", color="black")
    for name, figures in outcome.teachers.items():
        axes.axvline(100 * figures[first], linestyle="--", color="tab:red", label=f"teacher {name}")
    if outcome.teachers:
        axes.legend()
    axes.set_yticks(
        range(len(rows)), [_label(outcome, row, "student alone" if row is outcome.alone else row.name) for row in rows]
    )
    axes.set(xlabel=f"{_on_split(first)}, % ({len(outcome.seeds)} seeds)", title=outcome.title)
    axes.grid(True, axis="x", alpha=0.3)
    save_figure(figure, target)


def _by_val(outcome: Outcome) -> list[Row]:
    """Rows with a finished run, best first by what is known without `test`."""
    return sorted((row for row in outcome.rows if row.seeds), key=lambda row: -mean(row.chosen))


def _on_split(figure: str) -> str:
    """A figure's name with what it was measured on."""
    return figure if figure == "lfw" else f"test {figure}"


def _label(outcome: Outcome, row: Row, name: str) -> str:
    """A row's name; with its number of seeds where some are missing."""
    return name if row.seeds == outcome.seeds else f"{name} ({len(row.seeds)} of {len(outcome.seeds)} seeds)"


def _row_data(row: Row) -> dict[str, Any]:
    return {"name": row.name, "seeds": row.seeds, "figures": row.figures, "val": row.chosen, "seconds": row.seconds}


def _gain(outcome: Outcome, row: Row) -> float | None:
    first = outcome.names[0]
    return _mean(row, first) - _mean(outcome.alone, first) if outcome.alone.seeds else None


def _mean(row: Row, figure: str) -> float:
    return mean(row.figures[figure])


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _cells(row: Row) -> str:
    def cell(values: tuple[float, ...]) -> str:
        return f"{_percent(mean(values))} ± {_percent(spread(values))}" if len(values) > 1 else _percent(values[0])

    return " | ".join(cell(values) for values in (row.chosen, *row.figures.values()))


def _cost(cost: Cost) -> str:
    adds, size = f"{cost.multiply_adds / 1e6:,.1f} M", f"{cost.file_bytes / 1e6:.2f} MB"
    return f"{cost.parameters:,} | {adds} | {size} | {cost.time.median_ms:.2f} ms | {cost.peak_mib:.0f} MiB"
