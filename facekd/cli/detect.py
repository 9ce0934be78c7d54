"""`facekd detect`: faces, landmarks, mask status and quality in pictures, videos and cameras."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from facekd.cli.display import Window, picture_target, video_target
from facekd.cli.inputs import Picture, SourcesArgument, sort_sources
from facekd.cli.output import JsonOption, Output, ThreadsOption
from facekd.errors import ImageError

if TYPE_CHECKING:
    from facekd.pipeline import Face, FacePipeline

EPILOG = (
    "Examples: `facekd detect photo.jpg` · `facekd detect holiday/ --draw marked/` · "
    "`facekd detect door.mp4 --json` · `facekd detect 0 --show` (the first camera)"
)

DrawOption = Annotated[
    Path | None,
    typer.Option("--draw", metavar="DIR", file_okay=False, help="Save a marked copy of every picture or video here."),
]
ShowOption = Annotated[
    bool, typer.Option("--show", help="Show what is found in a window; q closes it. Needs a display build of OpenCV.")
]


def detect(
    sources: SourcesArgument,
    draw: DrawOption = None,
    show: ShowOption = False,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Find every face, with its landmarks, mask status and quality."""
    from facekd.pipeline import FacePipeline

    with Output(json=json, threads=threads) as output, ExitStack() as stack:
        window = stack.enter_context(Window()) if show else None
        pictures, videos, answers = sort_sources(sources, output)
        pipeline = FacePipeline() if pictures or videos else None
        if pipeline is not None:
            answers = _detect_pictures(pipeline, pictures, answers, draw, window, output)
        if pictures or answers or not videos:
            output.result({"images": answers}, text=_summary(answers))
        for video in videos:
            assert pipeline is not None
            _detect_video(pipeline, video, draw, window, output)


def _detect_pictures(
    pipeline: FacePipeline,
    pictures: list[Picture],
    failures: list[dict[str, str]],
    draw: Path | None,
    window: Window | None,
    output: Output,
) -> list[dict[str, Any]]:
    from facekd.images import load_image, save_image

    answers: list[dict[str, Any]] = list(failures)
    for picture in output.progress(pictures, "detecting"):
        try:
            image = load_image(picture.path)
            faces = pipeline.analyze(image)
        except ImageError as error:
            answers.append(output.failed(picture.path, error))
            continue
        answers.append({"path": str(picture.path), "faces": [face.to_dict() for face in faces]})
        if draw is not None:
            save_image(picture_target(draw, picture), _marked(image, faces))
        if window is not None:
            window.show(_marked(image, faces), wait=True)
    if draw is not None and pictures:
        output.say(f"marked copies are in {draw}")
    return answers


def _detect_video(
    pipeline: FacePipeline, source: str, draw: Path | None, window: Window | None, output: Output
) -> None:
    """Answer frame by frame, with the mask status of each face and the frames a second of the last second."""
    from facekd.video import RateMeter, Video, VideoFile

    meter = RateMeter()
    statuses: Counter[str] = Counter()
    frames = 0
    try:
        with ExitStack() as stack:
            video = stack.enter_context(Video(source))
            copy = stack.enter_context(VideoFile(video_target(draw, video), video.frame_rate)) if draw else None
            for frame in output.progress(video, video.name, total=video.frames):
                faces = pipeline.analyze(frame.image)
                rate = meter.tick(time.monotonic())
                frames += 1
                statuses.update(face.mask.status for face in faces)
                answer = {
                    "path": video.name,
                    "frame": frame.index,
                    "seconds": round(frame.seconds, 3),
                    "frames_per_second": round(rate, 2),
                    "faces": [face.to_dict() for face in faces],
                }
                output.result(answer, text=f"{frame.seconds:8.2f} s  {rate:5.1f} frames/s  {_status_line(faces)}")
                if copy is not None:
                    copy.write(_marked(frame.image, faces, f"{rate:.1f} frames/s"))
                if window is not None and not window.show(_marked(frame.image, faces, f"{rate:.1f} frames/s")):
                    break
    except ImageError as error:
        output.failed(source, error)
    except KeyboardInterrupt:
        # A camera ends only so; what was answered until then stands.
        output.say("stopped")
    if frames:
        found = ", ".join(f"{status} {count}" for status, count in sorted(statuses.items())) or "no face"
        output.say(f"{frames} frames; faces by mask status: {found}")


def _marked(image: NDArray[np.uint8], faces: list[Face], corner: str = "") -> NDArray[np.uint8]:
    """The picture with a box, landmarks and mask status for every face, and words in the upper left corner."""
    from facekd.drawing import BLUE, MASK_COLOURS, Mark, draw_faces

    marks = [
        Mark(face.box, face.landmarks, f"{face.mask.status} {face.mask.score:.2f}", MASK_COLOURS[face.mask.status])
        for face in faces
    ]
    if corner:
        marks.append(Mark(np.zeros(4, np.float32), None, corner, BLUE))
    return draw_faces(image, marks)


def _status_line(faces: list[Face]) -> str:
    counts = Counter(face.mask.status for face in faces)
    return ", ".join(f"{count} {_WORDS[status]}" for status, count in sorted(counts.items())) or "no face"


_WORDS = {"none": "without mask", "mask": "with mask", "incorrect": "with mask worn incorrectly"}


def _summary(answers: list[dict[str, Any]]) -> Table:
    """What people read: one line a face."""
    table = Table(box=None, pad_edge=False)
    for heading in ("picture", "face", "box x1 y1 x2 y2", "mask", "quality"):
        table.add_column(heading, overflow="fold")
    for answer in answers:
        if "error" in answer:
            table.add_row(answer["path"], "cannot be read", "", "", "")
        elif not answer["faces"]:
            table.add_row(answer["path"], "no face", "", "", "")
        for face in answer.get("faces", ()):
            box = " ".join(f"{edge:.0f}" for edge in face["box"])
            quality = " ".join((f"{face['quality']['score']:.2f}", *face["quality"]["reasons"]))
            mask = f"{face['mask']['status']} {face['mask']['score']:.2f}"
            table.add_row(answer["path"], f"{face['score']:.2f}", box, mask, quality)
    return table


def register(app: typer.Typer) -> None:
    """Add `detect` to the application."""
    app.command(epilog=EPILOG)(detect)
