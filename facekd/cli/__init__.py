"""The command line: `facekd`, one small file per command group, no logic of its own.

Each file defines plain typer commands and `register(app)`. None of them imports torch, OpenCV or ONNX Runtime when it
is imported, so that `facekd --help` and completion answer at once and without the `train` extra.
"""

from __future__ import annotations

import io
import sys
import traceback
from typing import Annotated

import typer
from rich.console import Console

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
from facekd.cli.output import ExitCode
from facekd.errors import FacekdError

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

EXTRA_OF_MODULE = {
    "torch": "train",
    "lightning_fabric": "train",
    "onnx": "train",
    "onnxscript": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "matplotlib": "bench",
}


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
    words = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        build_app()(args=arguments, prog_name="facekd")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except FacekdError as error:
        words.print(f"error: {error}", style="red")
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except ModuleNotFoundError as error:
        extra = EXTRA_OF_MODULE.get((error.name or "").partition(".")[0])
        if extra is None:
            return _internal_error(words)
        words.print(f"error: this needs {error.name}: pip install 'facekd[{extra}]'", style="red")
        return ExitCode.WRONG_USE
    except OSError as error:
        words.print(f"error: {error}", style="red")
        return ExitCode.BAD_INPUT
    except Exception:  # the last resort: exit code 1 would read as the answer "no"
        return _internal_error(words)
    return ExitCode.ANSWERED


def _internal_error(words: Console) -> int:
    """Print the traceback of what is our mistake, not the user's."""
    words.print(traceback.format_exc())
    words.print("error: this is a mistake in facekd; please report it with the lines above", style="red")
    return ExitCode.INTERNAL
