"""A comparison as tables (Markdown), as a plot, and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from facekd.distill.compare import Outcome, Row, verdict
from facekd.distill.costs import Cost


def as_data(outcome: Outcome, costs: Mapping[str, Cost]) -> dict[str, Any]:
    """The JSON of `facekd distill compare`."""
    return {
        "title": outcome.title,
        "figures": list(outcome.names),
        "seeds": list(outcome.seeds),
        "teachers": outcome.teachers,
        "alone": outcome.alone.figures,
        "methods": [
            {
                "name": row.name,
                "figures": row.figures,
                "gain": _mean(row, outcome.names[0]) - _mean(outcome.alone, outcome.names[0]),
                "verdict": verdict(outcome.alone.figures[outcome.names[0]], row.figures[outcome.names[0]]),
            }
            for row in outcome.rows
        ],
        "costs": {
            name: {
                "parameters": cost.parameters,
                "multiply_adds": cost.multiply_adds,
                "file_bytes": cost.file_bytes,
                "median_ms": cost.median_ms,
                "peak_mib": cost.peak_mib,
            }
            for name, cost in costs.items()
        },
    }


def as_markdown(outcome: Outcome, costs: Mapping[str, Cost]) -> str:
    """The tables: figures in percent, mean and standard deviation over seeds, best method first."""
    first = outcome.names[0]
    lines = [f"### {outcome.title}", ""]
    lines += [f"| method | {' | '.join(outcome.names)} | gain in {first} | verdict |"]
    lines += ["| --- |" + " --- |" * (len(outcome.names) + 2)]
    for name, figures in outcome.teachers.items():
        lines.append(f"| *teacher {name}* | {' | '.join(_percent(figures[f]) for f in outcome.names)} | | |")
    lines.append(f"| **student alone** | {_cells(outcome.alone, outcome.names)} | | |")
    for row in sorted(outcome.rows, key=lambda row: -_mean(row, first)):
        gain = 100 * (_mean(row, first) - _mean(outcome.alone, first))
        word = verdict(outcome.alone.figures[first], row.figures[first])
        lines.append(f"| {row.name} | {_cells(row, outcome.names)} | {gain:+.2f} | {word} |")
    lines += ["", f"Mean ± standard deviation over seeds {', '.join(map(str, outcome.seeds))}, in percent."]
    lines += [f"A method helps when its mean {first} exceeds the student's alone by more than the larger deviation."]
    if costs:
        lines += ["", "| network | parameters | multiply-adds | file | CPU time, one thread | peak memory |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        lines += [f"| {name} | {_cost(cost)} |" for name, cost in costs.items()]
    return "\n".join(lines) + "\n"


def plot(outcome: Outcome, target: Path) -> None:
    """Each seed's deciding figure as a dot, mean and deviation as a bar, teachers as lines; a picture file."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    first = outcome.names[0]
    rows = [*sorted(outcome.rows, key=lambda row: _mean(row, first)), outcome.alone]
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for height, row in enumerate(rows):
        values = [100 * value for value in row.figures[first]]
        colour = "black" if row is outcome.alone else "tab:blue"
        axes.errorbar(
            mean(values), height, xerr=stdev(values) if len(values) > 1 else 0, fmt="o", capsize=3, color=colour
        )
        axes.plot(values, [height] * len(values), ".", color=colour, alpha=0.4)
    axes.axvline(100 * _mean(outcome.alone, first), linestyle=":", color="black")
    for name, figures in outcome.teachers.items():
        axes.axvline(100 * figures[first], linestyle="--", color="tab:red", label=f"teacher {name}")
    if outcome.teachers:
        axes.legend()
    axes.set_yticks(range(len(rows)), ["student alone" if row is outcome.alone else row.name for row in rows])
    axes.set(xlabel=f"{first}, % ({len(outcome.seeds)} seeds)", title=outcome.title)
    axes.grid(True, axis="x", alpha=0.3)
    figure.savefig(target, dpi=150)


def _mean(row: Row, figure: str) -> float:
    return mean(row.figures[figure])


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _cells(row: Row, names: tuple[str, ...]) -> str:
    def cell(values: tuple[float, ...]) -> str:
        return f"{_percent(mean(values))} ± {_percent(stdev(values))}" if len(values) > 1 else _percent(values[0])

    return " | ".join(cell(row.figures[name]) for name in names)


def _cost(cost: Cost) -> str:
    adds = "?" if cost.multiply_adds is None else f"{cost.multiply_adds / 1e6:,.1f} M"
    size = f"{cost.file_bytes / 1e6:.2f} MB"
    return f"{cost.parameters:,} | {adds} | {size} | {cost.median_ms:.2f} ms | {cost.peak_mib:.0f} MiB"
