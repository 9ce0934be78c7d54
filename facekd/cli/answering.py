"""What `detect` and `identify` share: one look at every picture, then at every frame of every video, and its answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import RenderableType

from facekd.cli.display import Window, picture_target, video_target
from facekd.cli.inputs import Picture, sort_sources
from facekd.cli.output import Output
from facekd.errors import ImageError

if TYPE_CHECKING:
    from facekd.drawing import Mark

DrawOption = Annotated[
    Path | None,
    typer.Option("--draw", metavar="DIR", file_okay=False, help="Save a marked copy of every picture or video here."),
]
ShowOption = Annotated[
    bool, typer.Option("--show", help="Show what is found in a window; q closes it. Needs a display build of OpenCV.")
]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found in one picture.

    Attributes:
        faces: the JSON of each face; has ``mask`` with its ``status``.
        marks: what to draw for each face.
        words: the same in a few words, for the line of a frame.
    """

    faces: list[dict[str, Any]]
    marks: list[Mark]
    words: str


Look = Callable[[NDArray[np.uint8]], Seen]
Summary = Callable[[list[dict[str, Any]]], RenderableType]


def answer_sources(
    sources: Sequence[str], look: Look, summary: Summary, output: Output, draw: Path | None, show: bool
) -> None:
    """Look at everything that the user named and print the answers; what cannot be read is reported on the way.

    Args:
        sources: pictures, folders, videos, cameras.
        look: finds what there is in an RGB picture ``(H, W, 3)``; called first when there is something to look at.
        summary: what people read of the entries of ``{"images": [...]}``.
        output: where it goes.
        draw: folder for marked copies, or None.
        show: show them in a window.

    Raises:
        ConfigError: there is no window to show anything in.
    """
    with ExitStack() as stack:
        window = stack.enter_context(Window()) if show else None
        pictures, videos, failures = sort_sources(sources, output)
        entries: list[dict[str, Any]] = [*failures]
        for picture in output.progress(pictures, "looking"):
            entries.append(_answer_picture(picture, look, output, draw, window))
        if draw is not None and pictures:
            output.say(f"marked copies are in {draw}")
        if entries or not videos:
            output.result({"images": entries}, text=summary(entries))
        for video in videos:
            _answer_video(video, look, output, draw, window)


def _answer_picture(
    picture: Picture, look: Look, output: Output, draw: Path | None, window: Window | None
) -> dict[str, Any]:
    from facekd.drawing import draw_faces
    from facekd.images import load_image, save_image

    try:
        image = load_image(picture.path)
        seen = look(image)
    except ImageError as error:
        return output.failed(picture.path, error)
    if draw is not None:
        save_image(picture_target(draw, picture), draw_faces(image, seen.marks))
    if window is not None:
        window.show(draw_faces(image, seen.marks), wait=True)
    return {"path": str(picture.path), "faces": seen.faces}


def _answer_video(source: str, look: Look, output: Output, draw: Path | None, window: Window | None) -> None:
    """Answer frame by frame, with the mask status of each face and the frames a second of the last frames."""
    from facekd.drawing import BLUE, Mark, draw_faces
    from facekd.video import RateMeter, Video, VideoFile

    meter = RateMeter()
    statuses: Counter[str] = Counter()
    frames = 0
    try:
        with ExitStack() as stack:
            video = stack.enter_context(Video(source))
            copy = stack.enter_context(VideoFile(video_target(draw, video), video.frame_rate)) if draw else None
            for frame in output.progress(video, video.name, total=video.frames):
                seen = look(frame.image)
                rate = meter.tick(time.monotonic())
                frames += 1
                statuses.update(face["mask"]["status"] for face in seen.faces)
                answer = {
                    "path": video.name,
                    "frame": frame.index,
                    "seconds": round(frame.seconds, 3),
                    "frames_per_second": round(rate, 2),
                    "faces": seen.faces,
                }
                output.result(answer, text=f"{frame.seconds:8.2f} s  {rate:5.1f} frames/s  {seen.words or 'no face'}")
                if copy is not None or window is not None:
                    corner = Mark(np.zeros(4, np.float32), None, f"{rate:.1f} frames/s", BLUE)
                    marked = draw_faces(frame.image, [*seen.marks, corner])
                    if copy is not None:
                        copy.write(marked)
                    if window is not None and not window.show(marked):
                        break
    except ImageError as error:
        output.failed(source, error)
    except KeyboardInterrupt:
        # A camera ends only so; what was answered until then stands.
        output.say("stopped")
    if frames:
        found = ", ".join(f"{status} {count}" for status, count in sorted(statuses.items())) or "no face"
        output.say(f"{frames} frames; faces by mask status: {found}")
