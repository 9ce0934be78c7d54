"""Answers on stdout, words on stderr, the highest exit code wins."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

import facekd
from facekd import cli
from facekd.cli.output import ExitCode, JsonOption, Output, plain
from facekd.errors import ConfigError, EnrolmentRefused, FacekdError, GalleryError, ImageError, ModelError
from facekd.gallery.records import UnknownPerson


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, {}),
        ((), []),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.zeros((2, 2), np.uint8), [[0, 0], [0, 0]]),
        (float("nan"), None),
        ([float("inf"), 1.0], [None, 1.0]),
        (np.array([np.nan]), [None]),
        ({"a": {Path("b/c")}}, {"a": ["b/c"]}),
        ({1: "one"}, {"1": "one"}),
    ],
)
def test_plain_gives_what_json_knows(value: object, expected: object) -> None:
    result = plain(value)
    assert result == expected
    json.dumps(result, allow_nan=False)


def test_plain_takes_data_classes() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Pair:
        left: np.ndarray
        right: Path

    assert plain([Pair(np.ones(2), Path("x"))]) == [{"left": [1.0, 1.0], "right": "x"}]


def test_json_puts_one_line_on_stdout_and_words_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(json=True) as output:
        output.say("looking")
        output.warn("careful")
        output.result({"name": "José", "score": np.float32(0.25)}, text="never printed")
    captured = capsys.readouterr()
    assert captured.out == '{"name": "Jos\\u00e9", "score": 0.25}\n'
    assert "looking" in captured.err
    assert "careful" in captured.err


def test_without_json_the_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a [red]name[/red] " + "long " * 60
    with Output() as output:
        output.result({"x": 1}, text=name)
    assert capsys.readouterr().out == name + "\n"


def test_progress_is_silent_and_complete_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(Output().progress(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([], None),
        ([ImageError("bad")], 3),
        ([GalleryError("bad"), ImageError("bad")], 4),
        ([ImageError("bad"), EnrolmentRefused("no face", "no-face"), ConfigError("bad")], 5),
    ],
)
def test_the_highest_code_wins(errors: list[FacekdError], expected: int | None) -> None:
    def command() -> None:
        with Output() as output:
            for error in errors:
                output.failed("picture.jpg", error)

    if expected is None:
        command()
    else:
        with pytest.raises(typer.Exit) as end:
            command()
        assert end.value.exit_code == expected


def test_an_error_that_leaves_the_block_counts_with_what_was_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        with Output() as output:
            output.failed("a.jpg", EnrolmentRefused("two faces", "several-faces"))
            raise ModelError("weights are damaged")

    with pytest.raises(typer.Exit) as end:
        command()
    assert end.value.exit_code == 5
    assert "error: a.jpg: two faces" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_counts_with_what_was_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        with Output() as output:
            output.failed("a.jpg", EnrolmentRefused("two faces", "several-faces"))
            raise PermissionError(13, "Permission denied", "out.json")

    with pytest.raises(typer.Exit) as end:
        command()
    assert end.value.exit_code == 5
    assert "out.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UnknownPerson("nobody named 'Bob'"), 1, "nobody named 'Bob'"),
        (ConfigError("no such recipe"), 2, "no such recipe"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "facekd[train]"),
        (PermissionError(13, "Permission denied", "out.json"), 3, "out.json"),
        (GalleryError("locked"), 4, "locked"),
        (KeyError("oops"), 70, "mistake in facekd"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("inside", [True, False], ids=["inside of Output", "outside"])
def test_a_command_that_cannot_answer_says_so_in_json(
    error: BaseException,
    code: int,
    said: str,
    inside: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail(json: JsonOption = False) -> None:
        if not inside:
            raise error
        with Output(json=json):
            raise error

    monkeypatch.setattr(cli, "build_app", lambda: app)
    assert cli.run(["--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == code
    assert said in answer["error"]


def test_an_answer_is_the_only_object_and_wrong_use_is_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail(json: JsonOption = False) -> None:
        with Output(json=json) as output:
            output.result({"answered": True})
            raise GalleryError("locked")

    monkeypatch.setattr(cli, "build_app", lambda: app)
    assert cli.run(["--json"]) == 4
    assert json.loads(capsys.readouterr().out) == {"answered": True}
    assert cli.run(["--json", "--such"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == 2
    assert "--such" in answer["error"]


@pytest.mark.usefixtures("away_from_clone")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1:strict"])
def test_a_name_that_the_terminal_cannot_show_costs_no_answer(tmp_path: Path, encoding: str) -> None:
    name = os.fsencode(tmp_path / "Łukasz ") + b"caf\xe9.jpg"
    try:
        Path(os.fsdecode(name)).write_bytes(b"no picture")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    command = [sys.executable, "-m", "facekd", "detect", name]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert os.fsencode(json.loads(done.stdout)["images"][0]["path"]) == name
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert b"caf\\udce9.jpg" in done.stdout


def test_failed_gives_the_entry_for_the_answer_and_names_the_input_once(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    assert output.failed(Path("a.jpg"), ImageError("a.jpg is truncated")) == {
        "path": "a.jpg",
        "error": "a.jpg is truncated",
    }
    assert capsys.readouterr().err == "error: a.jpg is truncated\n"


def _app_that_raises(error: BaseException) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("no such recipe"), 2, "error: no such recipe"),
        (ImageError("truncated"), 3, "error: truncated"),
        (GalleryError("locked"), 4, "error: locked"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "facekd[train]"),
        (ModuleNotFoundError("No module named 'onnx.helper'", name="onnx.helper"), 2, "facekd[train]"),
        (PermissionError(13, "Permission denied", "out.jpg"), 3, "out.jpg"),
        (KeyError("oops"), ExitCode.INTERNAL, "Traceback"),
        (ModuleNotFoundError("No module named 'facekd.x'", name="facekd.x"), ExitCode.INTERNAL, "Traceback"),
    ],
)
def test_errors_become_codes_and_only_our_own_mistakes_show_a_traceback(
    error: BaseException,
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "build_app", lambda: _app_that_raises(error))
    assert cli.run([]) == code
    printed = capsys.readouterr().err
    assert words in printed
    assert ("Traceback" in printed) == (code == ExitCode.INTERNAL)


def test_wrong_use_is_2_and_help_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["detect"]) == 2
    assert cli.run(["no-such-command"]) == 2
    assert cli.run(["--help"]) == 0
    assert "facekd demo" in capsys.readouterr().out


@pytest.mark.usefixtures("away_from_clone")
def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from facekd.cli import run; run(['--help']); "
        "heavy = {'torch', 'cv2', 'onnxruntime', 'faiss', 'skimage', 'scipy'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("away_from_clone")
@pytest.mark.parametrize("options", [["--json"], []])
def test_a_reader_that_leaves_is_neither_an_error_nor_a_no(options: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "facekd", "zoo", "show", *options]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.usefixtures("away_from_clone")
def test_the_shell_completes_commands() -> None:
    asked = {"_FACEKD_COMPLETE": "complete_bash", "COMP_WORDS": "facekd de", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "facekd"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["demo", "detect"]


def test_the_version_is_known_without_an_installation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"facekd {facekd.__version__}\n"


def test_more_threads_than_any_machine_wants_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["zoo", "show", "--threads", "100000", "--json"]) == 2
    assert "threads must be a whole number" in json.loads(capsys.readouterr().out)["error"]


def test_interruption_has_a_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "build_app", lambda: _app_that_raises(KeyboardInterrupt()))
    assert cli.run([]) == ExitCode.INTERRUPTED
