"""`facekd bench video`: what looking at key frames saves, and how far followed faces are off."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from facekd.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from facekd.bench.video import VideoReport


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """A whole pipeline as what looks at key frames."""

    detect: Callable[..., Any]


def video(
    every: Annotated[
        int, typer.Option("--every", min=2, metavar="N", help="Frames from one look to the next, as for detect.")
    ] = 5,
    frames: Annotated[int, typer.Option("--frames", min=20, metavar="N", help="Length of the video.")] = 120,
    json: JsonOption = False,
    threads: Annotated[
        int, typer.Option("--threads", min=0, metavar="N", help="Processor threads; 0 lets facekd choose.")
    ] = 1,
) -> None:
    """A look at every frame against key frames, on a made-up video of 640x480: ratio of times, overlap of boxes.

    Once with the detector alone, once with the whole pipeline (also align, embed, mask status and quality).
    """
    with Output(json=json, threads=threads) as output:
        import cv2

        from facekd.bench.video import PEOPLE, bench_video
        from facekd.pipeline import FacePipeline

        if threads:
            cv2.setNumThreads(threads)
        pipeline = FacePipeline()
        looks: dict[str, Any] = {"detector": pipeline.detector, "pipeline": _Pipeline(pipeline.analyze)}
        reports = {name: bench_video(look, every, frames, output.progress) for name, look in looks.items()}
        answer: dict[str, Any] = {"every": every, "threads": threads, "people": PEOPLE}
        answer |= {name: asdict(report) for name, report in reports.items()}
        output.result(answer, text=_table(reports, every))


def _table(reports: dict[str, VideoReport], every: int) -> Table:
    table = Table("figure", *reports)
    rows: dict[str, Callable[[VideoReport], str]] = {
        "ms a frame, a look at every frame": lambda report: f"{report.every_frame_ms:.1f}",
        f"ms a frame, every {every}": lambda report: f"{report.key_frames_ms:.1f}",
        "ratio": lambda report: f"{report.ratio:.2f}",
        "frames looked at": lambda report: f"{report.looks} of {report.frames}",
        "followed boxes: IoU with a look's, mean": lambda report: f"{report.iou_mean:.3f}",
        "followed boxes: first decile": lambda report: f"{report.iou_low:.3f}",
        "had they stayed where they were seen, mean": lambda report: f"{report.iou_unmoved_mean:.3f}",
        "faces of a look that were followed": lambda report: f"{report.kept:.3f}",
        "ids, key frames and every frame": lambda report: f"{report.ids[0]}, {report.ids[1]}",
    }
    for label, value in rows.items():
        table.add_row(label, *(value(report) for report in reports.values()))
    return table


def register(bench: typer.Typer) -> None:
    """Add `video` to `bench`."""
    bench.command(epilog="Example: `facekd bench video --every 10`")(video)
