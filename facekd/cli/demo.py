"""`facekd demo`: the whole program on packaged portraits, in seconds, without anything but the installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facekd.cli.output import ExitCode, JsonOption, Output, ThreadsOption

OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder for the annotated picture.")
]


def demo(out: OutOption = Path("facekd-out"), json: JsonOption = False, threads: ThreadsOption = 0) -> None:
    """Enrol two people, recognise them, know nobody in strangers, refuse a photograph without a face.

    Exit code 1 when something came out other than expected.
    """
    from facekd.demo import Step, run_demo

    def tell(step: Step) -> None:
        verdict = "ok" if step.passed else "NOT AS EXPECTED"
        output.say(f"{step.milliseconds:8.0f} ms  {step.what}\n{'':13}{verdict}: {step.outcome}")

    with Output(json=json, threads=threads) as output:
        annotated = out / "demo.jpg"
        output.say("facekd demo: everything runs on this machine, nothing is downloaded.")
        steps = run_demo(annotated, tell)
        passed = sum(step.passed for step in steps)
        if passed < len(steps):
            output.at_least(ExitCode.NO)
        seconds = sum(step.milliseconds for step in steps) / 1000
        output.result(
            {"passed": passed == len(steps), "steps": steps, "seconds": seconds, "picture": annotated},
            text=f"{passed} of {len(steps)} steps as expected in {seconds:.1f} s. Marked picture: {annotated}",
        )


def register(app: typer.Typer) -> None:
    """Add `demo` to the application."""
    app.command(epilog="Examples: `facekd demo` · `facekd demo --out /tmp/demo` · `facekd demo --json`")(demo)
