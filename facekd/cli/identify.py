"""`facekd identify`: who is in pictures, videos and cameras; nobody, where nobody enrolled is."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from facekd.cli.detect import DrawOption, ShowOption
from facekd.cli.display import Window, picture_target, video_target
from facekd.cli.gallery_access import (
    CalibrationOption,
    GalleryOption,
    KeyFileOption,
    ThresholdOption,
    open_with_pipeline,
)
from facekd.cli.inputs import Picture, SourcesArgument, sort_sources
from facekd.cli.output import ExitCode, JsonOption, Output, ThreadsOption
from facekd.errors import ImageError

if TYPE_CHECKING:
    from facekd.gallery import Decision, Gallery
    from facekd.pipeline import Face, FacePipeline

EPILOG = (
    "Examples: `facekd identify photo.jpg` · `facekd identify album/ --fpir 0.01 --json` · `facekd identify 0 --show`. "
    "Exit code 1: nobody was recognised."
)
FpirOption = Annotated[
    float,
    typer.Option("--fpir", metavar="P", help="Share of strangers who may be given a name; the threshold follows."),
]


class _Identifier:
    """Answers for one picture after the other."""

    def __init__(self, gallery: Gallery, pipeline: FacePipeline, fpir: float, threshold: float | None) -> None:
        self._gallery, self._pipeline = gallery, pipeline
        self._fpir, self._threshold = fpir, threshold
        self.recognised = 0
        self.extrapolated = False

    def answer(self, image: Any) -> list[tuple[Face, Decision]]:
        faces = self._pipeline.analyze(image)
        decisions = self._gallery.identify_many(faces, fpir=self._fpir, threshold=self._threshold)
        self.recognised += sum(decision.person is not None for decision in decisions)
        self.extrapolated |= any(decision.extrapolated for decision in decisions)
        return list(zip(faces, decisions, strict=True))


def identify(
    sources: SourcesArgument,
    gallery: GalleryOption = None,
    fpir: FpirOption = 0.001,
    threshold: ThresholdOption = None,
    draw: DrawOption = None,
    show: ShowOption = False,
    calibration: CalibrationOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Say for every face who it is: a person of the gallery, nobody, or "try again" where two people are too close."""
    with Output(json=json, threads=threads) as output, ExitStack() as stack:
        window = stack.enter_context(Window()) if show else None
        pictures, videos, answers = sort_sources(sources, output)
        opened, pipeline = open_with_pipeline(gallery, key_file, calibration=calibration)
        stack.enter_context(opened)
        identifier = _Identifier(opened, pipeline, fpir, threshold)
        answers = [*answers, *_pictures(identifier, pictures, draw, window, output)]
        if pictures or answers or not videos:
            output.result({"images": answers}, text=_summary(answers))
        for video in videos:
            _video(identifier, video, draw, window, output)
        if identifier.extrapolated and threshold is None:
            output.warn(
                "the calibration's data cannot show so small an error rate; its thresholds are extrapolated "
                "(docs/gallery.md says what that means)"
            )
        if not identifier.recognised:
            output.at_least(ExitCode.NO)


def _pictures(
    identifier: _Identifier, pictures: list[Picture], draw: Any, window: Window | None, output: Output
) -> list[dict[str, Any]]:
    from facekd.images import load_image, save_image

    answers: list[dict[str, Any]] = []
    for picture in output.progress(pictures, "identifying"):
        try:
            image = load_image(picture.path)
            found = identifier.answer(image)
        except ImageError as error:
            answers.append(output.failed(picture.path, error))
            continue
        answers.append({"path": str(picture.path), "faces": [_face(*pair) for pair in found]})
        if draw is not None:
            save_image(picture_target(draw, picture), _marked(image, found))
        if window is not None:
            window.show(_marked(image, found), wait=True)
    if draw is not None and pictures:
        output.say(f"marked copies are in {draw}")
    return answers


def _video(identifier: _Identifier, source: str, draw: Any, window: Window | None, output: Output) -> None:
    from facekd.video import RateMeter, Video, VideoFile

    meter = RateMeter()
    try:
        with ExitStack() as stack:
            video = stack.enter_context(Video(source))
            copy = stack.enter_context(VideoFile(video_target(draw, video), video.frame_rate)) if draw else None
            for frame in output.progress(video, video.name, total=video.frames):
                found = identifier.answer(frame.image)
                rate = meter.tick(time.monotonic())
                answer = {
                    "path": video.name,
                    "frame": frame.index,
                    "seconds": round(frame.seconds, 3),
                    "frames_per_second": round(rate, 2),
                    "faces": [_face(*pair) for pair in found],
                }
                names = ", ".join(_words(decision) for _, decision in found) or "no face"
                output.result(answer, text=f"{frame.seconds:8.2f} s  {rate:5.1f} frames/s  {names}")
                if copy is not None:
                    copy.write(_marked(frame.image, found))
                if window is not None and not window.show(_marked(frame.image, found)):
                    break
    except ImageError as error:
        output.failed(source, error)
    except KeyboardInterrupt:
        # A camera ends only so; what was answered until then stands.
        output.say("stopped")


def _face(face: Face, decision: Decision) -> dict[str, Any]:
    seen = face.to_dict()
    return {"box": seen["box"], **decision.to_dict(), "mask": seen["mask"], "quality": seen["quality"]}


def _marked(image: NDArray[np.uint8], found: list[tuple[Face, Decision]]) -> NDArray[np.uint8]:
    from facekd.drawing import AMBER, BLUE, GREEN, Mark, draw_faces

    colours = {"match": GREEN, "try-again": AMBER, "nobody": BLUE}
    marks = [Mark(face.box, face.landmarks, _words(decision), colours[decision.outcome]) for face, decision in found]
    return draw_faces(image, marks)


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
