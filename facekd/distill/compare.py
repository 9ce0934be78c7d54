"""Compare distillation methods: same data, same student, same seeds and steps, with and without each method."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from facekd.distill.answers import BatchAnswers
from facekd.distill.comparison import ALONE, Comparison, Entry
from facekd.distill.judging import judge_again, judge_teachers
from facekd.distill.methods import find_method
from facekd.distill.opening import build_network, file_teacher, made_teachers, on_disk
from facekd.distill.outcome import Outcome, Row
from facekd.distill.runs import Finished, Run, folder_name, key_of, shared_identity
from facekd.distill.settings import teachers_of
from facekd.distill.stages import Stage
from facekd.distill.task import DistilledTask
from facekd.distill.teachers import Teacher
from facekd.engine.loop import BEST, fit
from facekd.engine.run_folder import CHECKPOINT
from facekd.engine.task import Task
from facekd.errors import ConfigError


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
    *,
    shared: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    train: bool = True,
    answers_bytes: int = 0,
) -> Outcome:
    """Train every row with every seed and judge all with one judge.

    What a folder holds already and fits is not trained again, so a stopped comparison goes on where it was; what
    another process is training is left to it, so that several may share a comparison. What was judged by fewer figures
    is judged again. The outcome has what is finished.

    Args:
        recipe: what is compared.
        stage: of the shared training recipe.
        folder: receives a folder for each run.
        teacher_files: files that replace the recipe's, by name.
        say: told what goes on.
        shared: the shared training recipe's table; runs of another one are refused.
        only: rows to train, by their names; all by default. The outcome has the others, too, as far as they are there.
        train: False leaves untrained what is not finished.
        answers_bytes: disk for what fixed teachers say about the batches, so that they are asked once for all rows.

    Raises:
        ConfigError: runs bounded by minutes (rows would see different data), a missing teacher, an unknown row, a row
            that cannot work, or a folder with runs of another comparison.
    """
    first = stage.settings(recipe.seeds[0])
    if first.minutes is not None:
        raise ConfigError("a comparison is bounded by training.steps, not minutes: slower methods would see less data")
    teachers, files = open_teachers(recipe, stage, teacher_files or {})
    entries = (Entry(name=ALONE), *recipe.methods)
    trained = _chosen_rows(entries, only)
    common = shared_identity(shared) if shared is not None else {}
    data = stage.data_digest()
    runs = {
        entry.name: [_run(recipe, entry, stage, teachers, [common, data], s, folder) for s in recipe.seeds]
        for entry in entries
    }
    for run in (run for row in runs.values() for run in row):
        run.finished()  # whatever does not fit is refused before hours are spent
    if train:
        selected = [(entry, run) for entry in entries if entry.name in trained for run in runs[entry.name]]
        batches = first.steps * first.accumulate * len(recipe.seeds)
        fixed = {name: teacher for name, teacher in teachers.items() if name in on_disk(recipe)}
        members = {name: item.members for name, item in recipe.teachers.items() if item.members}
        answers = (
            BatchAnswers(folder / "answers", fixed, recipe.terms, batches, answers_bytes, members)
            if answers_bytes
            else None
        )
        waiting = [(entry, run) for entry, run in selected if run.finished() is None]
        _try_rows(recipe, waiting, stage, teachers, answers)
        for entry, run in waiting:
            if run.finished() is not None:  # by another process, meanwhile
                continue
            say(f"{entry.name}, seed {run.seed} ({_state([run for _, run in selected])})")
            if not _train(run, recipe, entry, stage, teachers, answers):
                say(f"{entry.name}, seed {run.seed}: another process is at it")
    for run in (run for row in runs.values() for run in row):
        judge_again(run, stage, say)
    rows = [_row(entry.name, runs[entry.name], stage.figures) for entry in entries]
    sources = teachers_of(recipe.terms, recipe.teachers, teachers)
    judged = judge_teachers(stage, sources, files, folder, key_of(common, data))
    outcome = Outcome(recipe.title, stage.figures, recipe.seeds, first.steps, judged, rows[0], tuple(rows[1:]))
    if not outcome.missing:
        shutil.rmtree(folder / "answers", ignore_errors=True)
    return outcome


def make_task(
    recipe: Comparison,
    entry: Entry,
    stage: Stage,
    teachers: Mapping[str, Teacher],
    seed: int,
    answers: BatchAnswers | None = None,
) -> DistilledTask:
    """One run's task. First weights and batches depend on the seed alone, not on the method."""
    return _with_row(recipe, entry, stage, teachers, seed, answers, _base_task(recipe, stage, seed))


def _base_task(recipe: Comparison, stage: Stage, seed: int) -> Task:
    """What the student learns in every row with a seed."""
    torch.manual_seed(seed)
    named = recipe.student
    student = build_network(stage.architectures, named.architecture, named.options) if named.architecture else None
    return stage.task(seed, student)


def _with_row(
    recipe: Comparison,
    entry: Entry,
    stage: Stage,
    teachers: Mapping[str, Teacher],
    seed: int,
    answers: BatchAnswers | None,
    base: Task,
) -> DistilledTask:
    """The base task with what a row adds to it."""
    kept = answers if entry.terms and entry.mix is None else None  # a mixture is another picture
    if kept is not None:
        base = kept.with_answers(base, entry.terms)
    asked = teachers if kept is None else kept.through(teachers)
    needed = teachers_of(entry.terms, recipe.teachers, teachers)
    made = made_teachers(recipe.teachers, needed, base.student, stage.architectures, asked)
    chosen = {name: teacher for name, teacher in {**teachers, **made}.items() if name in needed}
    return DistilledTask(base, chosen, entry, stage.centres() if _needs_centres(entry) else None, seed)


def _try_rows(
    recipe: Comparison,
    waiting: Sequence[tuple[Entry, Run]],
    stage: Stage,
    teachers: Mapping[str, Teacher],
    answers: BatchAnswers | None,
) -> None:
    """Build the task of every row that is not finished, so that one that cannot work is refused before hours are spent.

    One student serves them all; the first row is left out, for it is built and trained at once.
    """
    entries = list({entry.name: entry for entry, _ in waiting}.values())[1:]
    if not entries:
        return
    seed = waiting[0][1].seed
    base = _base_task(recipe, stage, seed)
    for entry in entries:
        try:
            _with_row(recipe, entry, stage, teachers, seed, answers, base)
        except ConfigError as error:
            raise ConfigError(f"the row {entry.name!r} cannot be trained: {error}") from error


def _needs_centres(entry: Entry) -> bool:
    return any("centres" in find_method(term.method).given for term in entry.terms)


def _chosen_rows(entries: Sequence[Entry], only: Sequence[str]) -> set[str]:
    known = {folder_name(entry.name): entry.name for entry in entries}
    unknown = [name for name in only if folder_name(name) not in known]
    if unknown:
        raise ConfigError(f"the comparison has no row {unknown[0]!r}; it has {', '.join(known.values())}")
    return {known[folder_name(name)] for name in only} or set(known.values())


def _run(
    recipe: Comparison,
    entry: Entry,
    stage: Stage,
    teachers: Mapping[str, Teacher],
    common: Sequence[Any],
    seed: int,
    folder: Path,
) -> Run:
    used = teachers_of(entry.terms, recipe.teachers, teachers)
    said = {
        name: recipe.teachers[name].model_dump(mode="json", exclude={"file", "cache"})
        for name in used
        if name in recipe.teachers
    }
    digests = {name: teachers[name].digest for name in used if name in teachers}
    training = stage.settings(seed).model_dump(mode="json", exclude={"threads", "loader_threads", "checkpoint_minutes"})
    own = [entry.model_dump(mode="json", exclude={"name"}), recipe.student.model_dump(mode="json")]
    key = key_of(own, said, digests, training, recipe.recipe, common)
    return Run(entry.name, seed, folder / folder_name(entry.name) / f"seed-{seed}", key)


def _train(
    run: Run,
    recipe: Comparison,
    entry: Entry,
    stage: Stage,
    teachers: Mapping[str, Teacher],
    answers: BatchAnswers | None,
) -> bool:
    """Train and judge one run; False where another process is at it."""
    with run.claim() as mine:
        if mine and run.finished() is None:
            begun = time.monotonic()
            task = make_task(recipe, entry, stage, teachers, run.seed, answers)
            outcome = fit(task, stage.settings(run.seed), run.folder, resume=(run.folder / CHECKPOINT).is_file())
            figures = stage.judge(outcome.best_path)
            run.finish(Finished(outcome.best_score, figures, time.monotonic() - begun))
        return mine


def _row(name: str, runs: Sequence[Run], figures: Sequence[str]) -> Row:
    done = [
        (run, found) for run in runs if (found := run.finished()) is not None and set(figures) <= set(found.figures)
    ]
    return Row(
        name,
        tuple(run.seed for run, _ in done),
        {figure: tuple(found.figures[figure] for _, found in done) for figure in figures},
        tuple(found.chosen for _, found in done),
        tuple(found.seconds for _, found in done),
        tuple(run.folder / BEST for run, _ in done),
    )


def _state(runs: Sequence[Run]) -> str:
    """How many are finished, and what those let expect of the others."""
    found = [run.finished() for run in runs]
    seconds = [item.seconds for item in found if item is not None]
    text = f"{len(seconds)} of {len(runs)} finished"
    if not seconds:
        return text
    return f"{text}, about {median(seconds) * (len(runs) - len(seconds)) / 60:.0f} min left for one process"
