"""README and docs say what the program does: every command line in them exists, every option is described."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from facekd.cli import build_app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def _fenced(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _command_lines(page: Path) -> list[str]:
    """Everything that starts with `facekd` in a console block or in inline code, without comments and shell parts."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in _fenced(text, "console") for line in block.splitlines()]
    lines += re.findall(r"`((?:\.venv/bin/)?facekd [^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    parts = [part.strip() for line in lines for part in re.split(r"&&|\||  #", line)]
    return [part.removeprefix(".venv/bin/") for part in parts if part.removeprefix(".venv/bin/").startswith("facekd ")]


CASES = [
    pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in dict.fromkeys(_command_lines(page))
]


@cache
def _root() -> Any:
    return typer.main.get_command(build_app())


def _find(words: list[str]) -> tuple[Any, list[str]]:
    command: Any = _root()
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("line", CASES)
def test_every_command_line_is_one_that_the_program_takes(line: str) -> None:
    command, words = _find(shlex.split(line)[1:])
    if not hasattr(command, "commands"):
        # Options are looked up only: the files in an example need not exist.
        known = {name for item in command.params for name in (*item.opts, *item.secondary_opts)} | {"--help"}
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"{line}: no such option {sorted(used - known)}"
        return
    known = {"--version", "--install-completion", "--show-completion", "--help"}
    rest = set(words) - known - {"COMMAND", "…"}
    assert not rest, f"{line}: there is no command {sorted(rest)}"


def test_the_readme_has_command_lines_to_check() -> None:
    assert len(_command_lines(ROOT / "README.md")) >= 15


def test_the_command_page_is_what_the_commands_say() -> None:
    specification = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == module.page(), (
        "docs/cli.md is old: run `python docs/make_cli.py`"
    )


def test_every_page_of_the_docs_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}" in navigation, f"docs/{page.name} is not in mkdocs.yml"


def test_links_inside_the_repository_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_the_contributors_set_up_is_the_readmes() -> None:
    (install,) = [line for line in _readme_commands() if "[all]" in line]
    assert install.partition(" && ")[0].removeprefix(".venv/bin/") in (ROOT / "CONTRIBUTING.md").read_text()


def _readme_commands() -> list[str]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Two commands")[1].split("\n## ")[0]
    return [line for block in _fenced(section, "console") for line in block.splitlines()]


def test_the_readme_has_exactly_two_commands_which_ci_reads_out_of_it() -> None:
    commands = _readme_commands()
    assert len(commands) == 2
    assert commands[0].endswith("/facekd demo")
    assert commands[1].endswith("/pytest")
    assert all("-c constraints.txt" in command for command in commands)
    assert "Two commands" in (ROOT / ".ci" / "run").read_text()


def test_constraints_pin_every_declared_dependency_exactly() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^+\s]*", line) for line in lines)
    pins = {canonicalize_name(line.partition("==")[0]): Version(line.partition("==")[2]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    for requirement in map(Requirement, [*project["dependencies"], *(line for extra in extras for line in extra)]):
        name = canonicalize_name(requirement.name)
        if name != "facekd" and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            assert pins[name] in requirement.specifier, f"{requirement} needs another pin than {pins[name]}"


def test_python_examples_use_public_names() -> None:
    import facekd

    for page in PAGES:
        for block in _fenced(page.read_text(encoding="utf-8"), "python"):
            compile(block, str(page), "exec")
            for names in re.findall(r"from facekd import ([\w, ]+)", block):
                for name in names.split(","):
                    assert hasattr(facekd, name.strip()), f"{page.name}: facekd has no {name.strip()}"


def test_the_cli_page_knows_every_exit_code() -> None:
    from facekd.cli.output import ExitCode

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"\n| {int(code)} | " in page
