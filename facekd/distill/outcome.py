"""What a comparison found, and whether a method helps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev


@dataclass(frozen=True, slots=True)
class Row:
    """One method's finished runs.

    Attributes:
        name: of the method.
        seeds: that are finished, in the order of the recipe.
        figures: for each figure of the judge, which looks at `test`, one value a seed.
        chosen: the score on `val` by which each run's weights were chosen among its validations, one a seed.
        seconds: that each run took beside whatever else the machine did; of a resumed run its last part.
        weights: the exported student of each seed.
    """

    name: str
    seeds: tuple[int, ...]
    figures: dict[str, tuple[float, ...]]
    chosen: tuple[float, ...]
    seconds: tuple[float, ...]
    weights: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a comparison found.

    Attributes:
        title: of the table.
        names: of the figures, the deciding one first.
        seeds: of all rows.
        steps: of every run.
        teachers: their figures, from the same judge on the same data; one whose answers are stored may lack some.
        alone: the student without a teacher.
        rows: with each method.
    """

    title: str
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    teachers: dict[str, dict[str, float]]
    alone: Row
    rows: tuple[Row, ...]

    @property
    def missing(self) -> dict[str, tuple[int, ...]]:
        """Seeds that are not finished, by row."""
        left = {row.name: tuple(s for s in self.seeds if s not in row.seeds) for row in (self.alone, *self.rows)}
        return {name: seeds for name, seeds in left.items() if seeds}


def verdict(alone: tuple[float, ...], distilled: tuple[float, ...]) -> str:
    """Whether a method helps: its mean must lie beyond the student's alone by more than the spread over seeds.

    The spread is the larger of the two standard deviations.
    """
    if len(alone) < 2 or len(distilled) < 2:
        return "one seed says nothing"
    difference, spread = mean(distilled) - mean(alone), max(stdev(alone), stdev(distilled))
    if difference > spread:
        return "helps"
    return "hurts" if difference < -spread else "no difference"


def paired(alone: Row, row: Row, figure: str) -> tuple[float, ...]:
    """A method's value less that of the student alone, seed by seed, for the seeds that both have.

    One seed gives both the same first weights and the same batches, so their difference is free of much of the chance
    that seeds bring.
    """
    without = dict(zip(alone.seeds, alone.figures[figure], strict=True))
    pairs = zip(row.seeds, row.figures[figure], strict=True)
    return tuple(value - without[seed] for seed, value in pairs if seed in without)


def spread(values: tuple[float, ...]) -> float:
    """Standard deviation over seeds; 0 for one."""
    return stdev(values) if len(values) > 1 else 0.0
