"""The command line: `facekd`, one small file per command group, no logic of its own.

Each file defines plain typer commands and `register(app)`. None of them imports torch, OpenCV or ONNX Runtime when it
is imported, so that `facekd --help` and completion answer at once and without the `train` extra.
"""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import Annotated

import typer

from facekd.cli import (
    bench,
    calibrate,
    demo,
    detect,
    distill,
    doctor,
    enroll,
    evaluate,
    gallery_cmd,
    identify,
    import_teacher,
    people,
    prepare,
    train,
    verify,
    zoo,
)
from facekd.cli.output import ExitCode, Output, report

GROUPS = (
    demo,
    detect,
    enroll,
    identify,
    verify,
    people,
    gallery_cmd,
    prepare,
    train,
    distill,
    import_teacher,
    evaluate,
    calibrate,
    bench,
    zoo,
    doctor,
)
"""The order in which `facekd --help` lists them."""

EPILOG = (
    "Exit codes: 0 answered · 1 answered no · 2 wrong use · 3 bad input · 4 model or gallery damaged · "
    "5 refused by policy. The highest one wins."
)


def _version(wanted: bool) -> None:
    if wanted:
        from facekd import __version__

        typer.echo(f"facekd {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Find, enrol and recognise faces on an ordinary processor.

    Start with `facekd demo`: it needs nothing but the installation.
    """


def build_app() -> typer.Typer:
    """Put the application together from its command groups."""
    app = typer.Typer(
        name="facekd", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", epilog=EPILOG
    )
    app.callback()(_root)
    for group in GROUPS:
        group.register(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run `facekd` and end the process with a documented exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown escaped; it must not cost the answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; errors are printed on stderr, facekd's own without a traceback.

    Args:
        arguments: what would follow `facekd` on the command line; None takes the process's own.
    """
    json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        build_app()(args=arguments, prog_name="facekd")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if json and (words := _before_any_answer(end)):
            with suppress(typer.Exit):  # nobody reads it
                Output(json=True).result({"error": words, "exit_code": code})
        return code
    except (Exception, KeyboardInterrupt) as error:
        return report(error, json)
    return ExitCode.ANSWERED


def _before_any_answer(end: SystemExit) -> str:
    """What typer ended the process for before a command could answer, in words; empty where the command did."""
    cause = end.__context__
    if isinstance(cause, typer.Exit):
        return "interrupted" if isinstance(cause.__cause__, KeyboardInterrupt) else ""
    # The class of typer's own errors has another place in each of its versions; all of them have this.
    format_message = getattr(cause, "format_message", None)
    return format_message() if format_message else ""
