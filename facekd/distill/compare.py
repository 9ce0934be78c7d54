"""Compare distillation methods: same data, same student, same seeds and steps, with and without each method."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from facekd.distill.opening import build_network, file_teacher, made_teachers, on_disk
from facekd.distill.settings import DistillSettings, TeacherFile, Term, check_members
from facekd.distill.stages import Stage
from facekd.distill.task import DistilledTask
from facekd.distill.teachers import Teacher
from facekd.engine.loop import fit
from facekd.engine.settings import Section
from facekd.errors import ConfigError

ALONE = "alone"


class Entry(DistillSettings):
    """One row of the table: what is distilled in it.

    Attributes:
        name: of the row.
    """

    name: str = Field(min_length=1)


class StudentSettings(Section):
    """The student, where it is not the one of the training recipe.

    Attributes:
        architecture: a name that the stage knows.
        options: its arguments.
    """

    architecture: str = ""
    options: dict[str, Any] = Field(default_factory=dict)


class Comparison(Section):
    """A comparison.

    Attributes:
        title: of the table.
        recipe: the training recipe whose data, student and schedule all rows share.
        set: replacements in it, KEY=VALUE; `training.steps` bounds what a run may take.
        student: another network than the recipe's.
        seeds: every row is trained with each; three at least for a figure that is published.
        teachers: by name.
        methods: the rows beside the student alone.
    """

    kind: Literal["compare"]
    title: str
    recipe: str
    set: tuple[str, ...] = ()
    student: StudentSettings = StudentSettings()
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    teachers: dict[str, TeacherFile] = Field(default_factory=dict)
    methods: tuple[Entry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Comparison:
        names = [ALONE, *(entry.name for entry in self.methods)]
        folders = [_folder_name(name) for name in names]
        if len(set(folders)) != len(folders):
            raise ValueError(f"rows need different names ({ALONE!r} is the student without a teacher), got {names[1:]}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"the same seed twice says nothing: {list(self.seeds)}")
        check_members(self.teachers)
        for entry in self.methods:
            for term in entry.terms:
                if term.source and self.teachers and term.source not in self.teachers:
                    raise ValueError(f"{entry.name}: no teacher {term.source!r}; there are {', '.join(self.teachers)}")
        return self

    @property
    def terms(self) -> tuple[Term, ...]:
        """Those of all rows."""
        return tuple(term for entry in self.methods for term in entry.terms)


@dataclass(frozen=True, slots=True)
class Row:
    """One method's runs.

    Attributes:
        name: of the method.
        figures: for each figure one value a seed, in the order of the seeds.
        weights: the exported student of each seed.
    """

    name: str
    figures: dict[str, tuple[float, ...]]
    weights: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a comparison found.

    Attributes:
        title: of the table.
        names: of the figures, the deciding one first.
        seeds: of all rows.
        teachers: their figures, from the same judge on the same data.
        alone: the student without a teacher.
        rows: with each method.
    """

    title: str
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    teachers: dict[str, dict[str, float]]
    alone: Row
    rows: tuple[Row, ...]


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


def open_teachers(
    recipe: Comparison, stage: Stage, given: Mapping[str, Path]
) -> tuple[dict[str, Teacher], dict[str, Path]]:
    """The fixed teachers by name, and the files of those that the judge can judge.

    Args:
        recipe: names them.
        stage: knows architectures, and teachers whose answers come with the data.
        given: files that replace the recipe's, by name.
    """
    unknown = set(given) - set(recipe.teachers)
    if unknown:
        raise ConfigError(f"the comparison has no teacher {sorted(unknown)}; it has {sorted(recipe.teachers)}")
    teachers: dict[str, Teacher] = stage.teachers()
    files: dict[str, Path] = {}
    for name in on_disk(recipe):
        settings = recipe.teachers[name]
        path = given.get(name, settings.file)
        teachers[name] = file_teacher(name, recipe, stage.architectures, path)
        if path is not None and path.suffix == ".onnx" and settings.mean == 0.0 and settings.scale == 1.0:
            files[name] = path
    return teachers, files


def compare(
    recipe: Comparison,
    stage: Stage,
    folder: Path,
    teacher_files: Mapping[str, Path] | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Outcome:
    """Train every row with every seed and judge all with one judge.

    What a folder holds already and fits is not trained again, so a stopped comparison goes on where it was.

    Args:
        recipe: what is compared.
        stage: of the shared training recipe.
        folder: receives a folder for each run.
        teacher_files: files that replace the recipe's, by name.
        say: told what goes on.

    Raises:
        ConfigError: runs bounded by minutes (rows would see different data), a missing teacher, or a folder with runs
            of another comparison.
    """
    if stage.settings(recipe.seeds[0]).minutes is not None:
        raise ConfigError("a comparison is bounded by training.steps, not minutes: slower methods would see less data")
    teachers, files = open_teachers(recipe, stage, teacher_files or {})
    rows = []
    for entry in (Entry(name=ALONE), *recipe.methods):
        found: list[dict[str, float]] = []
        weights = []
        for seed in recipe.seeds:
            path = folder / _folder_name(entry.name) / f"seed-{seed}"
            say(f"{entry.name}, seed {seed}")
            found.append(_run(recipe, entry, stage, teachers, seed, path))
            weights.append(path / "best.onnx")
        figures = {name: tuple(item[name] for item in found) for name in stage.figures}
        rows.append(Row(entry.name, figures, tuple(weights)))
    judged = {name: stage.judge(path) for name, path in files.items()}
    return Outcome(recipe.title, stage.figures, recipe.seeds, judged, rows[0], tuple(rows[1:]))


def make_task(
    recipe: Comparison, entry: Entry, stage: Stage, teachers: Mapping[str, Teacher], seed: int
) -> DistilledTask:
    """One run's task. First weights and batches depend on the seed alone, not on the method."""
    torch.manual_seed(seed)
    named = recipe.student
    student = build_network(stage.architectures, named.architecture, named.options) if named.architecture else None
    base = stage.task(seed, student)
    available = {**teachers, **made_teachers(recipe, base.student, stage.architectures, teachers)}
    used = {term.source for term in entry.terms}
    chosen = {name: available[name] for name in available if name in used} if used - {""} else available
    return DistilledTask(base, chosen, entry, stage.centres() if _needs_centres(entry) else None, seed)


def _needs_centres(entry: Entry) -> bool:
    return any(term.method in ("centres", "margin-distillation", "adadistill") for term in entry.terms)


def _run(
    recipe: Comparison, entry: Entry, stage: Stage, teachers: Mapping[str, Teacher], seed: int, path: Path
) -> dict[str, float]:
    settings = stage.settings(seed)
    digests = {name: teacher.digest for name, teacher in sorted(teachers.items())}
    identity = [entry.model_dump(mode="json"), recipe.student.model_dump(mode="json"), recipe.recipe, list(recipe.set)]
    text = json.dumps([*identity, settings.model_dump(mode="json"), digests if entry.terms else {}], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    mark, result = path / "run.json", path / "figures.json"
    if mark.is_file():
        if json.loads(mark.read_text(encoding="utf-8"))["key"] != key:
            raise ConfigError(f"{path} holds a run of another recipe or teacher; name another folder, or delete it")
        if result.is_file():
            return dict(json.loads(result.read_text(encoding="utf-8")))
    path.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"key": key, "method": entry.name, "seed": seed}), encoding="utf-8")
    outcome = fit(make_task(recipe, entry, stage, teachers, seed), settings, path, resume=True)
    figures = stage.judge(outcome.best_path)
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    partial.replace(result)
    return figures


def _folder_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "row"
