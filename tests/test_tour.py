"""The README's tour, command by command, with the shipped models and the exit codes that it promises."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from facekd import cli

ROOT = Path(__file__).resolve().parents[1]


def _tour() -> list[tuple[list[str], int]]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Five-minute tour")[1].split("\n## ")[0]
    block = re.search(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert block is not None
    steps = []
    for line in block[1].splitlines():
        promised = re.search(r"# .*exit code (\d+)", line)
        words = shlex.split(line, comments=True)
        assert words[0] == "facekd"
        steps.append((words[1:], int(promised[1]) if promised else 0))
    return steps


def test_every_command_of_the_tour_ends_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "facekd").symlink_to(ROOT / "facekd", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACEKD_GALLERY", str(tmp_path / "own.db"))
    for words, promised in _tour():
        if words[0] == "bench":
            continue  # takes its time, and has tests of its own
        code = cli.run(words)
        captured = capsys.readouterr()
        assert code == promised, f"facekd {shlex.join(words)}\n{captured.out}{captured.err}"
        if words[0] == "identify":
            assert ("Barack Obama" in captured.out) == (promised == 0)
    assert len(list((tmp_path / "marked").glob("*.jpg"))) == len(list((ROOT / "facekd" / "demo_data").glob("*.jpg")))


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "facekd").symlink_to(ROOT / "facekd", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Python\n")[1].split("\n## ")[0]
    block = re.search(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert block is not None
    exec(compile(block[1], "README.md", "exec"), {})
    assert "Barack Obama" in capsys.readouterr().out
