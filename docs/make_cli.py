"""Write docs/cli.md from the commands themselves: `python docs/make_cli.py`. A test compares the two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from facekd.cli import build_app

PAGE = Path(__file__).with_name("cli.md")

INTRODUCTION = """\
# Command line

<!-- Written by `python docs/make_cli.py`; change the commands or that file, not this one. -->

`facekd COMMAND --help` prints what stands here. `facekd --install-completion` makes the shell complete commands and
options. `python -m facekd` is the same program.

## What scripts may rely on

**Answers go to stdout, words to stderr.** With `--json` stdout holds one JSON object and nothing else; for a video or a
camera one object a line, one line a frame. A command that ends without an answer, whatever the reason, prints
`{"error", "exit_code"}`. When something ends `detect`, `identify` or `enroll` early (Ctrl-C, a locked gallery; for the
first two SIGTERM, too), what has been answered until then is printed; that it is not all, the exit code says.

A number that does not exist is `null`. The JSON is ASCII, whatever the terminal's encoding: `é` is written `\\u00e9`,
and a byte of a file name that is no UTF-8 is `\\udce9` (Python's `os.fsencode` gives the name back).

**Exit codes**; where several apply, the highest wins:

| code | meaning |
| --- | --- |
| 0 | every input was answered; for `enroll`: of everybody at least one photograph that was given is in the gallery |
| 1 | answered "no": not found, not the same person, a step of the demo not as expected |
| 2 | wrong use: unknown option, impossible value, something not installed that the command needs |
| 3 | bad input: a file that is missing or no picture; the others are still answered and printed |
| 4 | a model or a gallery is missing, damaged or locked, or the two do not belong together |
| 5 | refused by policy: of somebody no photograph that was given is in the gallery; the others are enrolled |
| 70 | a mistake in facekd; the traceback is printed |
| 130 | interrupted; a video or camera that is stopped is answered, unless another one was to follow |

A photograph without a face is an answer for `detect` and `identify`, and bad input for `verify` and `enroll`.

**Values.** `box` is `[x1, y1, x2, y2]` in pixels of the picture, `landmarks` five points (left eye, right eye, nose,
left and right mouth corner as seen). `mask` is `{"status": "none" | "mask" | "incorrect", "score"}`, `quality` is
`{"score", "reasons": [...]}`. `score` and `threshold` of a match are cosines, higher is more alike.

- `detect`: `{"images": [{"path", "faces": [{"box", "landmarks", "score", "mask", "quality"}]}]}`; a picture that cannot
  be read has `error` in the place of `faces`. Video: `{"path", "frame", "seconds", "frames_per_second", "faces"}` on
  each line; `seconds` is the place in a file, and for a camera or a stream when the frame arrived, counted from the
  first; of these the newest frame is looked at, and some are missed where a look takes longer than a frame. One that
  cannot be opened, a file that is cut short, and a camera or stream that breaks off end with a line
  `{"path", "error"}` and exit code 3. Of an address neither user and password nor what follows `?` is printed.
- `identify`: as `detect`, each face `{"box", "person" or null, "outcome", "score", "threshold", "runner_up" or null,
  "fpir", "mask", "quality", ...}`.
- `enroll`: `{"people": [{"person", "enrolled": [...], "refused": [{"path", "reason", "message"}]}]}`.
- `verify`: `{"same", "score", "threshold", "fmr", ...}`.
- `demo`: `{"passed", "steps": [{"what", "outcome", "passed", "milliseconds"}], "seconds", "picture"}`.
- `zoo show`, `zoo verify`: `{"models": [...]}`.
- `doctor`: `{"versions", "machine", "models", "gallery", "not_protected", "problems"}`.
"""


def commands(command: Any, path: tuple[str, ...] = ("facekd",)) -> Iterator[tuple[str, Any]]:
    """All commands below a group, each with its full name such as `facekd people list`."""
    below = getattr(command, "commands", None)
    if below is None:
        yield " ".join(path), command
        return
    for name in sorted(below):
        yield from commands(below[name], (*path, name))


def _plain(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _section(name: str, command: Any) -> Iterator[str]:
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option" and not item.hidden]
    usage = " ".join((name, *(_argument(item) for item in arguments), "[OPTIONS]"))
    yield f"## {name}\n\n{(command.help or '').strip()}\n\n```text\n{usage}\n```\n"
    yield "| | |\n| --- | --- |"
    for item in arguments:
        if item.help:
            yield f"| `{_plain(_argument(item).strip('[]'))}` | {_plain(item.help)} |"
    for item in options:
        names = ", ".join((*item.opts, *item.secondary_opts))
        value = "" if item.is_flag or item.count else item.metavar or item.name.upper()
        default = item.default
        shown = "" if default in (None, False, ()) or callable(default) else f" Default: {_value(default)}."
        required = " Required." if item.required else ""
        yield f"| `{names}{' ' * bool(value)}{_plain(value)}` | {_plain(item.help)}{shown}{required} |"
    if command.epilog:
        yield f"\n{_plain(command.epilog)}"
    yield ""


def _argument(item: Any) -> str:
    name = item.metavar or item.name.upper()
    if name.startswith("[") or item.required:
        return name
    return f"[{name}]"


def _value(default: Any) -> str:
    return f"`{getattr(default, 'value', default)}`"


def page() -> str:
    """The whole page."""
    root = typer.main.get_command(build_app())
    parts = [INTRODUCTION]
    for name, command in commands(root):
        parts.extend(_section(name, command))
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
