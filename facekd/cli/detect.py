"""`facekd detect`: faces, landmarks, mask status and quality in pictures, videos and cameras."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from facekd.cli.answering import Asked, DrawOption, EveryOption, Found, ShowOption, answer_sources
from facekd.cli.inputs import SourcesArgument
from facekd.cli.output import JsonOption, Output, ThreadsOption

if TYPE_CHECKING:
    from facekd.pipeline import Face, FacePipeline

EPILOG = (
    "Examples: `facekd detect photo.jpg` · `facekd detect holiday/ --draw marked/` · "
    "`facekd detect door.mp4 --every 5 --json` · `facekd detect 0 --show` (the first camera)"
)
WORDS = {"none": "without mask", "mask": "with mask", "incorrect": "with mask worn incorrectly"}


def detect(
    sources: SourcesArgument,
    draw: DrawOption = None,
    show: ShowOption = False,
    every: EveryOption = 1,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Find every face, with its landmarks, mask status and quality."""

    @cache
    def pipeline() -> FacePipeline:
        from facekd.pipeline import FacePipeline

        return FacePipeline()

    def look(image: NDArray[np.uint8]) -> list[Found]:
        return [_found(face) for face in pipeline().analyze(image)]

    with Output(json=json, threads=threads) as output:
        answer_sources(sources, Asked(look, _words, _summary), output, draw, show, every)


def _found(face: Face) -> Found:
    from facekd.drawing import MASK_COLOURS

    mask = face.mask
    label = f"{mask.status} {mask.score:.2f}"
    return Found(face.box, face.landmarks, face.score, face.to_dict(), label, MASK_COLOURS[mask.status])


def _words(faces: Sequence[Found]) -> str:
    counts = Counter(face.answer["mask"]["status"] for face in faces)
    return ", ".join(f"{count} {WORDS[status]}" for status, count in sorted(counts.items()))


def _summary(entries: list[dict[str, Any]]) -> Table:
    """What people read: one line a face."""
    table = Table(box=None, pad_edge=False)
    for heading in ("picture", "face", "box x1 y1 x2 y2", "mask", "quality"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        if "error" in entry:
            table.add_row(entry["path"], "cannot be read", "", "", "")
        elif not entry["faces"]:
            table.add_row(entry["path"], "no face", "", "", "")
        for face in entry.get("faces", ()):
            box = " ".join(f"{edge:.0f}" for edge in face["box"])
            quality = " ".join((f"{face['quality']['score']:.2f}", *face["quality"]["reasons"]))
            mask = f"{face['mask']['status']} {face['mask']['score']:.2f}"
            table.add_row(entry["path"], f"{face['score']:.2f}", box, mask, quality)
    return table


def register(app: typer.Typer) -> None:
    """Add `detect` to the application."""
    app.command(epilog=EPILOG)(detect)
