"""`facekd identify`: who is in pictures, videos and cameras; nobody, where nobody enrolled is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from facekd.cli.answering import Asked, DrawOption, EveryOption, Found, ShowOption, answer_sources
from facekd.cli.gallery_access import (
    CalibrationOption,
    GalleryOption,
    KeyFileOption,
    ThresholdOption,
    check_limits,
    open_with_pipeline,
)
from facekd.cli.inputs import SourcesArgument
from facekd.cli.output import ExitCode, JsonOption, Output, ThreadsOption

if TYPE_CHECKING:
    from facekd.gallery import Decision
    from facekd.pipeline import Face

EPILOG = (
    "Examples: `facekd identify photo.jpg` · `facekd identify album/ --fpir 0.01 --json` · `facekd identify 0 --show`. "
    "Exit code 1: nobody was recognised."
)
FpirOption = Annotated[
    float,
    typer.Option("--fpir", metavar="P", help="Share of strangers who may be given a name; the threshold follows."),
]


def identify(
    sources: SourcesArgument,
    gallery: GalleryOption = None,
    fpir: FpirOption = 0.001,
    threshold: ThresholdOption = None,
    draw: DrawOption = None,
    show: ShowOption = False,
    every: EveryOption = 1,
    calibration: CalibrationOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Say for every face who it is: a person of the gallery, nobody, or "try again" where two people are too close.

    In a video, faces are recognised in the frames that are looked at (`looked` and `detected` in the JSON say which);
    in between each keeps what was said of it last.
    """
    recognised = 0
    extrapolated = False

    def look(image: NDArray[np.uint8]) -> list[Found]:
        nonlocal recognised, extrapolated
        faces = pipeline.analyze(image)
        decisions = opened.identify_many(faces, fpir=fpir, threshold=threshold)
        recognised += sum(decision.person is not None for decision in decisions)
        extrapolated |= any(decision.extrapolated for decision in decisions)
        return [_found(*pair) for pair in zip(faces, decisions, strict=True)]

    with Output(json=json, threads=threads) as output:
        check_limits(fpir, threshold)
        opened, pipeline = open_with_pipeline(gallery, key_file, calibration=calibration)
        with opened:
            answer_sources(sources, Asked(look, _line, _summary), output, draw, show, every)
        if extrapolated and threshold is None:
            output.warn(
                "the calibration's data cannot show so small an error rate; its thresholds are extrapolated "
                "(docs/gallery.md says what that means)"
            )
        if not recognised:
            output.at_least(ExitCode.NO)


def _found(face: Face, decision: Decision) -> Found:
    from facekd.drawing import AMBER, BLUE, GREEN

    seen = face.to_dict()
    answer = {"box": seen["box"], **decision.to_dict(), "mask": seen["mask"], "quality": seen["quality"]}
    colour = {"match": GREEN, "try-again": AMBER, "nobody": BLUE}[decision.outcome]
    return Found(face.box, face.landmarks, face.score, answer, _words(decision), colour)


def _line(faces: Sequence[Found]) -> str:
    return ", ".join(face.label for face in faces)


def _words(decision: Decision) -> str:
    score = "" if decision.score is None else f" {decision.score:.2f}"
    return (decision.person or decision.outcome.replace("-", " ")) + score


def _summary(answers: list[dict[str, Any]]) -> Table:
    """What people read: one line a face."""
    table = Table(box=None, pad_edge=False)
    for heading in ("picture", "person", "score", "threshold", "runner-up", "strangers let through", "mask"):
        table.add_column(heading, overflow="fold")
    for answer in answers:
        if "error" in answer:
            table.add_row(answer["path"], "cannot be read")
        elif not answer["faces"]:
            table.add_row(answer["path"], "no face")
        for face in answer.get("faces", ()):
            who = face["person"] or (f"try again ({face['reason']})" if face["reason"] else "nobody")
            runner_up = face["runner_up"]
            table.add_row(
                answer["path"],
                who,
                "" if face["score"] is None else f"{face['score']:.3f}",
                f"{face['threshold']:.3f}",
                f"{runner_up['person']} {runner_up['score']:.3f}" if runner_up else "",
                _rate(face),
                f"{face['mask']['status']} {face['mask']['score']:.2f}",
            )
    return table


def _rate(face: dict[str, Any]) -> str:
    if face["fpir"] is None:
        return "unknown"
    upper = "" if face["fpir_upper"] is None else f", at most {face['fpir_upper']:.2g}"
    return f"{face['fpir']:.2g}{upper}" + (" (extrapolated)" if face["extrapolated"] else "")


def register(app: typer.Typer) -> None:
    """Add `identify` to the application."""
    app.command(epilog=EPILOG)(identify)
