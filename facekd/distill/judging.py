"""Judging what a comparison has: its teachers, and finished runs of which another figure is asked for later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

from facekd.distill.runs import Run, folder_name, key_of
from facekd.distill.stages import Stage
from facekd.engine.loop import BEST
from facekd.errors import ConfigError
from facekd.whole_files import write_whole


def judge_teachers(
    stage: Stage, sources: AbstractSet[str], files: Mapping[str, Path], folder: Path, judged_on: str
) -> dict[str, dict[str, float]]:
    """Figures of the teachers, by the students' judge.

    Args:
        stage: the judge.
        sources: teachers that a row asks. Stored ones that nobody asks are left out.
        files: of those on disk.
        folder: keeps their figures beside the runs, for a large teacher takes long to judge.
        judged_on: names the stage's data and recipe, which says how its judge counts.
    """
    judged = {name: figures for name, figures in stage.judge_stored().items() if name in sources}
    for name, path in files.items():
        judged[name] = _judge_file(stage, path, folder / f"teacher-{folder_name(name)}.json", judged_on)
    return judged


def judge_again(run: Run, stage: Stage, say: Callable[[str], None]) -> None:
    """Give a finished run the figures that nobody asked for when it was judged, such as those of LFW.

    Raises:
        ConfigError: its weights are gone.
    """
    found = run.finished()
    if found is None or set(stage.figures) <= set(found.figures):
        return
    best = run.folder / BEST
    if not best.is_file():
        wanted = ", ".join(stage.figures)
        raise ConfigError(f"{best} is gone, and {wanted} cannot be found without it: delete its folder")
    with run.claim() as mine:
        if mine:
            missing = [figure for figure in stage.figures if figure not in found.figures]
            say(f"{run.row}, seed {run.seed}: judging again, for {', '.join(missing)}")
            run.finish(replace(found, figures=stage.judge(best)))


def _judge_file(stage: Stage, path: Path, kept: Path, judged_on: str) -> dict[str, float]:
    key = key_of(hashlib.sha256(path.read_bytes()).hexdigest(), stage.figures, judged_on)
    if kept.is_file():
        stored = json.loads(kept.read_text(encoding="utf-8"))
        if stored["key"] == key:
            return dict(stored["figures"])
    figures = stage.judge(path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps({"key": key, "figures": figures}))
    return figures
