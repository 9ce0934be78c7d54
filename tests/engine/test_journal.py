"""The history of a run: one row a step and name, whatever ended the run before."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("torch")

from rich.console import Console

from facekd.engine.journal import Journal, draw_curves


def rows(folder: Path) -> list[tuple[int, str, float]]:
    with (folder / "history.csv").open(newline="", encoding="utf-8") as table:
        return [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(table)]


def write(folder: Path, first: int, last: int, *, resumed_at: int | None = None) -> Journal:
    journal = Journal(folder, Console(quiet=True), resumed_at=resumed_at)
    for step in range(first, last + 1):
        journal.scalars(step, {"loss/a": step / 2, "val/score": -step})
    return journal


def test_a_resumed_run_drops_the_rows_beyond_its_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1, 4)  # killed: the checkpoint was of step 2
    write(tmp_path, 3, 5, resumed_at=2).close()
    expected = [
        (step, name, value) for step in range(1, 6) for name, value in (("loss/a", step / 2), ("val/score", -step))
    ]
    assert rows(tmp_path) == expected
    assert (tmp_path / "curves.png").is_file()


def test_a_run_that_starts_anew_starts_its_history_anew(tmp_path: Path) -> None:
    write(tmp_path, 1, 4)
    write(tmp_path, 1, 1).close()
    assert rows(tmp_path) == [(1, "loss/a", 0.5), (1, "val/score", -1.0)]


@pytest.mark.parametrize("torn", ["6,val/sc", "6,val/score,-", '6,"val/sc'])
def test_a_torn_line_is_left_out(tmp_path: Path, torn: str) -> None:
    write(tmp_path, 1, 2)
    with (tmp_path / "history.csv").open("a", encoding="utf-8") as table:
        table.write(torn)
    draw_curves(tmp_path / "history.csv", tmp_path / "curves.png")  # no ValueError
    write(tmp_path, 3, 3, resumed_at=6)
    assert [step for step, _, _ in rows(tmp_path)] == [1, 1, 2, 2, 3, 3]


def test_a_history_that_was_removed_is_begun_again(tmp_path: Path) -> None:
    write(tmp_path, 3, 3, resumed_at=2)
    assert [step for step, _, _ in rows(tmp_path)] == [3, 3]
