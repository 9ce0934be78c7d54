"""A run's folder: whether a run may begin or go on in it, and by which recipe its steps were made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from facekd.engine.run_state import RunState
from facekd.engine.settings import TrainingSettings
from facekd.errors import ConfigError
from facekd.whole_files import write_whole

CHECKPOINT = "checkpoint.pt"
RECIPE = "recipe.json"
_ABSENT = "not there"


def refuse_to_overwrite(folder: Path) -> None:
    """Raise ConfigError where a run would be begun in the folder of another."""
    if (folder / CHECKPOINT).is_file():
        raise ConfigError(f"{folder} holds a run already: pass --resume to go on with it, or name another folder")


def check_folder(folder: Path, settings: TrainingSettings, *, resume: bool) -> None:
    """Refuse what a look at the folder shows, before hours go into reading data.

    Args:
        folder: of the run.
        settings: of the run.
        resume: whether it is to go on.

    Raises:
        ConfigError: there is a run and it is not to go on, or there is none and it is, or it is one with another seed,
            optimiser, ``accumulate`` or number of ranks.
        ModelError: the checkpoint is damaged.
    """
    checkpoint = folder / CHECKPOINT
    if not resume:
        refuse_to_overwrite(folder)
    elif checkpoint.is_file():
        RunState(settings).check(checkpoint)
    else:
        raise ConfigError(
            f"{folder} holds no {CHECKPOINT} to go on from: correct --run, or leave --resume out to start anew there"
        )


def write_recipe(folder: Path, recipe: BaseModel, step: int) -> None:
    """Note by which recipe a run begins, or goes on from a step, in ``recipe.json``.

    The file is a list of ``{"from_step": …, "recipe": {…}}`` with every key, defaults included; a run that was always
    resumed as it began has one entry. Entries of steps that are not in the checkpoint any more are left out.
    """
    said = _plain(recipe)
    entries = [entry for entry in _entries(folder) if entry["from_step"] < step]
    if not entries or entries[-1]["recipe"] != said:
        entries.append({"from_step": step, "recipe": said})
    write_whole(folder / RECIPE, json.dumps(entries, indent=1) + "\n")


def recipe_changes(folder: Path, recipe: BaseModel) -> list[str]:
    """A line for each key that differs from what a run's last steps were made by; one for a folder that does not say.

    Example:
        >>> recipe_changes(Path("runs/mine"), recipe)
        ['training.learning_rate is 0.001 now, was 0.002 in this run']
    """
    entries = _entries(folder)
    if not entries:
        return [f"{folder} has no {RECIPE}: whether the recipe is that of the steps before is not known"]
    before, now = dict(_flat(entries[-1]["recipe"])), dict(_flat(_plain(recipe)))
    keys = [key for key in {**before, **now} if before.get(key, _ABSENT) != now.get(key, _ABSENT)]
    return [f"{key} is {now.get(key, _ABSENT)} now, was {before.get(key, _ABSENT)} in this run" for key in keys]


def _plain(recipe: BaseModel) -> dict[str, Any]:
    """As it is read back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(recipe.model_dump(mode="json")))
    return plain


def _entries(folder: Path) -> list[dict[str, Any]]:
    """What ``write_recipe`` wrote; nothing where an older version began the run."""
    path = folder / RECIPE
    if not path.is_file():
        return []
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [{"from_step": int(entry["from_step"]), "recipe": dict(entry["recipe"])} for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot read {path}: {error!r}; remove it to go on without it") from error


def _flat(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of nested tables by their dotted keys; tables in a list by their number."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{key}[{number}]")
    else:
        yield key, value
