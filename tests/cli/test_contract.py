"""What every command promises: `--json`, `--threads`, a line of help, and the names that scripts know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from facekd.cli import build_app


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from _commands(below, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(_commands(typer.main.get_command(build_app())))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_takes_json_and_threads_and_says_what_it_does(name: str) -> None:
    command = COMMANDS[name]
    options = {option for item in command.params for option in item.opts}
    assert {"--json", "--threads"} <= options
    assert command.help


def test_the_commands_that_scripts_rely_on_are_there() -> None:
    promised = {
        "demo": {"--out"},
        "detect": {"--draw", "--show", "--every"},
        "prepare": set(),
        "enroll": {"--folder", "--gallery"},
        "identify": {"--gallery", "--fpir", "--every"},
        "verify": {"--person", "--fmr"},
        "calibrate": {"--out"},
        "train": {"--resume"},
        "evaluate lfw": {"--mode", "--model"},
        "evaluate cfp": {"--plot", "--sheet"},
        "evaluate detection": {"--split", "--refiner"},
        "evaluate wider": {"--labels"},
        "evaluate landmarks": {"--split", "--source"},
        "evaluate mask": {"--split"},
        "evaluate crops": {"--split"},
        "bench speed": set(),
        "bench detection": {"--peer", "--peer-models"},
        "bench gallery": {"--sizes"},
        "bench mask": {"--model", "--split"},
        "bench video": {"--every"},
        "evaluate open-set": {"--lfw"},
        "import-teacher": {"--lfw"},
        "distill compare": {"--only", "--report-only", "--markdown"},
        "doctor": set(),
    }
    promised |= {f"people {verb}": set() for verb in ("list", "show", "rename", "remove", "export", "import")}
    promised |= {f"gallery {verb}": set() for verb in ("check", "backup", "restore", "rotate-key", "audit")}
    promised |= {f"zoo {verb}": set() for verb in ("show", "verify")}
    for name, options in promised.items():
        assert name in COMMANDS
        assert options <= {option for item in COMMANDS[name].params for option in item.opts}, name


def test_an_application_made_again_has_each_command_once() -> None:
    def count() -> int:
        groups = [group.typer_instance for group in build_app().registered_groups]
        return sum(len(group.registered_commands) for group in groups if group is not None)

    assert count() == count()
