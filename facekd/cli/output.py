"""What every command shares: where words go, where answers go, and the code it exits with.

Words (progress, warnings, bad input) go to stderr, answers to stdout, so that ``facekd … --json | jq`` always works.
A command is written like this::

    def detect(paths: …, json: JsonOption = False, threads: ThreadsOption = 0) -> None:
        with Output(json=json, threads=threads) as output:
            for path in output.progress(paths, "detecting"):
                try:
                    …
                except ImageError as error:
                    images.append(output.failed(path, error))
            output.result({"images": images}, text=f"{len(images)} pictures")

Leaving the ``with`` block ends the process with the highest exit code that was recorded in it; an error that leaves the
block is printed, those that users can mend without a traceback, and counts too. Under ``--json`` a command that has
printed no answer until then prints ``{"error": message, "exit_code": code}``.

Exit codes: 0 every input was answered; 1 answered "no"; 2 wrong use; 3 bad input; 4 model or gallery damaged;
5 refused by policy; 70 an error in facekd itself; 130 interrupted. Several apply: the highest wins.
"""

from __future__ import annotations

import json as json_module
import math
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from enum import IntEnum
from os import PathLike
from types import TracebackType
from typing import Annotated, Any, NoReturn, TypeVar

import numpy as np
import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from facekd.errors import FacekdError

Item = TypeVar("Item")

JsonOption = Annotated[
    bool, typer.Option("--json", help="Answer with JSON on standard output, and with nothing else there.")
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=0, metavar="N", help="Processor threads for the networks; 0 lets facekd choose.")
]

EXTRA_OF_MODULE = {
    "torch": "train",
    "lightning_fabric": "train",
    "onnx": "train",
    "onnxscript": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "matplotlib": "bench",
}


class ExitCode(IntEnum):
    """What scripts may rely on; see the module's text. A plain int is as good wherever one of these is wanted."""

    ANSWERED = 0
    NO = 1
    WRONG_USE = 2
    BAD_INPUT = 3
    DAMAGED = 4
    REFUSED = 5
    INTERNAL = 70
    INTERRUPTED = 130


class Output:
    """Standard output and standard error of one command, and its exit code.

    Args:
        json: answer with JSON on stdout (one object; one object a line where a command answers several times).
        threads: processor threads for the networks of this process; 0 leaves the default.
    """

    def __init__(self, json: bool = False, threads: int = 0) -> None:
        self.json = json
        self.exit_code = 0
        self._answered = False
        self._last_error = ""
        self._words = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        # Into a file or a pipe a table gets all the room it wants: cells cut off at 80 columns would be lost there.
        self._answers = _AnswerConsole(highlight=False, markup=False, width=None if sys.stdout.isatty() else 240)
        if threads:
            from facekd.runtime import set_default_threads

            set_default_threads(threads)

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the command with the highest recorded code; print an error instead of raising it."""
        if isinstance(error, typer.Exit):
            self.at_least(error.exit_code)
        elif isinstance(error, (Exception, KeyboardInterrupt)) and not isinstance(error, BrokenPipeError):
            self._tell(error)
        elif error is not None:
            return
        if not self.exit_code:
            return
        if self.json and not self._answered:
            with suppress(typer.Exit):
                self.result({"error": self._last_error, "exit_code": self.exit_code})
        raise typer.Exit(self.exit_code) from None

    def say(self, text: str) -> None:
        """Tell the user what happens, on stderr."""
        self._words.print(text)

    def warn(self, text: str) -> None:
        """Tell the user something to look at, on stderr; the exit code stays."""
        self._words.print(f"warning: {text}", style="yellow")

    def error(self, text: str, code: int) -> None:
        """Print an error on stderr and record its exit code."""
        self._words.print(f"error: {text}", style="red")
        self._last_error = text
        self.at_least(code)

    def failed(self, subject: str | PathLike[str], error: FacekdError) -> dict[str, str]:
        """Report one input that could not be answered, and go on with the others.

        Returns:
            ``{"path": subject, "error": message}``, to stand in the JSON answer where the result would have stood.
        """
        message = str(error)
        self.error(message if str(subject) in message else f"{subject}: {message}", error.exit_code)
        return {"path": str(subject), "error": message}

    def at_least(self, code: int) -> None:
        """Record an exit code; the highest one recorded wins. ``ExitCode.NO`` is how a command answers "no"."""
        self.exit_code = max(self.exit_code, int(code))

    def _tell(self, error: BaseException) -> None:
        """Print what ended the command, with a traceback where that is our mistake, and record its exit code."""
        extra = EXTRA_OF_MODULE.get((error.name or "").partition(".")[0]) if isinstance(error, ImportError) else None
        if isinstance(error, FacekdError):
            self.error(str(error), error.exit_code)
        elif isinstance(error, KeyboardInterrupt):
            self._last_error = "interrupted"
            self.at_least(ExitCode.INTERRUPTED)
        elif isinstance(error, ModuleNotFoundError) and extra is not None:
            self.error(f"this needs {error.name}: pip install 'facekd[{extra}]'", ExitCode.WRONG_USE)
        elif isinstance(error, OSError):
            self.error(str(error), ExitCode.BAD_INPUT)
        else:  # exit code 1 would read as the answer "no"
            self._words.print("".join(traceback.format_exception(error)))
            self.error("this is a mistake in facekd; please report it with the lines above", ExitCode.INTERNAL)

    def result(self, answer: Mapping[str, Any], text: RenderableType | None = None) -> None:
        """Print the answer on stdout: as one line of JSON under ``--json``, else as ``text``.

        Args:
            answer: the object that scripts get. NumPy values, paths and data classes are converted; a number that is
                not finite becomes null, because JSON has none.
            text: what people get: a string or anything that rich prints (a Table). None: the JSON, indented.
        """
        self._answered = True
        if self.json:
            try:
                # In ASCII: a valid answer whatever the terminal's encoding is, and with file names in any bytes.
                sys.stdout.write(json_module.dumps(plain(answer), allow_nan=False) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                _reader_left()
        elif text is None:
            self._answers.print(json_module.dumps(plain(answer), ensure_ascii=False, indent=2), soft_wrap=True)
        elif isinstance(text, str):
            self._answers.print(text, soft_wrap=True)
        else:
            self._answers.print(text)

    def progress(self, items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
        """Iterate over ``items`` with a bar on stderr; without a terminal, or for fewer than two items, silently.

        Args:
            items: anything iterable.
            description: what is being done, such as "detecting".
            total: how many items there will be; asked of ``items`` when None.
        """
        if total is None:
            total = len(items) if isinstance(items, Sized) else None
        if not self._words.is_terminal or (total is not None and total < 2):
            yield from items
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._words, transient=True) as bar:
            yield from bar.track(items, total=total, description=description)


def report(error: BaseException, json: bool) -> int:
    """Tell what ended a command outside of its `Output`, in the same way; gives the exit code."""
    try:
        with Output(json=json):
            raise error
    except typer.Exit as end:
        return end.exit_code
    return ExitCode.ANSWERED


class _AnswerConsole(Console):
    def on_broken_pipe(self) -> None:
        """Stop without the exit code 1 that rich would give: it means "no" here."""
        _reader_left()


def _reader_left() -> NoReturn:
    """End quietly when whoever read the answers (`| head`) has gone; what was recorded until then is the exit code."""
    # The interpreter flushes stdout once more when it ends, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(ExitCode.ANSWERED)


def plain(value: Any) -> Any:
    """Turn NumPy values, paths, data classes, sets and tuples into what JSON knows; not-finite numbers become None."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
