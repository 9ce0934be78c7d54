"""What `detect` and `identify` share: one look at every picture, then at the key frames of every video, and answers."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import RenderableType

from facekd.cli.display import Window, picture_target, video_target
from facekd.cli.inputs import Picture, sort_sources
from facekd.cli.output import ExitCode, Output
from facekd.errors import ImageError

if TYPE_CHECKING:
    from facekd.detection.tracking import TrackedFace
    from facekd.drawing import Colour, Mark

DrawOption = Annotated[
    Path | None,
    typer.Option(
        "--draw",
        metavar="DIR",
        file_okay=False,
        help="Save a marked copy of every picture or video here. A video's can be played once the command has ended, "
        "be it by Ctrl-C or SIGTERM; a kill or a power cut costs it.",
    ),
]
ShowOption = Annotated[
    bool, typer.Option("--show", help="Show what is found in a window; q closes it. Needs a display build of OpenCV.")
]


EveryOption = Annotated[
    int,
    typer.Option(
        "--every",
        min=1,
        metavar="N",
        help="Look at every N-th frame of a video, and where a face is lost; in between faces are only followed.",
    ),
]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One face, and what is said of it.

    Attributes:
        box: (4,) float32 ``x1, y1, x2, y2`` in pixels.
        landmarks: (5, 2) float32 in pixels.
        score: the detector's, 0..1.
        answer: its JSON; has ``box``, and ``mask`` with its ``status``.
        label: what is written at its box.
        colour: of the box, RGB.
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    score: float
    answer: dict[str, Any]
    label: str
    colour: Colour

    def mark(self) -> Mark:
        """What to draw for it."""
        from facekd.drawing import Mark

        return Mark(self.box, self.landmarks, self.label, self.colour)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command asks of each picture.

    Attributes:
        detect: finds the faces of an RGB picture ``(H, W, 3)``; called first when there is something to look at.
        words: the faces of a frame in a few words.
        summary: what people read of the entries of ``{"images": [...]}``.
    """

    detect: Callable[[NDArray[np.uint8]], Sequence[Found]]
    words: Callable[[Sequence[Found]], str]
    summary: Callable[[list[dict[str, Any]]], RenderableType]


def answer_sources(
    sources: Sequence[str], asked: Asked, output: Output, draw: Path | None, show: bool, every: int
) -> None:
    """Look at everything that the user named and print the answers; what cannot be read is reported on the way.

    Whatever ends it early, Ctrl-C and SIGTERM too: the answers that were made are printed.

    Args:
        sources: pictures, folders, videos, cameras.
        asked: what is asked of each.
        output: where the answers go.
        draw: folder for marked copies, or None.
        show: show them in a window.
        every: frames of a video from one look to the next; in between faces are followed.

    Raises:
        ConfigError: there is no window to show anything in.
    """
    with ExitStack() as stack:
        stack.enter_context(_termination_as_interruption())
        window = stack.enter_context(Window()) if show else None
        pictures, videos, failures = sort_sources(sources, output)
        entries: list[dict[str, Any]] = [*failures]
        complete = False
        try:
            for picture in output.progress(pictures, "looking"):
                entries.append(_answer_picture(picture, asked, output, draw, window))
            complete = True
        finally:
            if draw is not None and pictures:
                output.say(f"marked copies are in {draw}")
            if entries or (complete and not videos):
                output.result({"images": entries}, text=asked.summary(entries))
        for place, video in enumerate(videos, start=1):
            if not _answer_video(video, asked, output, draw, window, every) and place < len(videos):
                output.at_least(ExitCode.INTERRUPTED)
                break


@contextmanager
def _termination_as_interruption() -> Iterator[None]:
    """SIGTERM, with which systemd and docker stop a process, ends as Ctrl-C does: answers printed, copies closed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _answer_picture(
    picture: Picture, asked: Asked, output: Output, draw: Path | None, window: Window | None
) -> dict[str, Any]:
    from facekd.drawing import draw_faces
    from facekd.images import load_image, save_image

    try:
        image = load_image(picture.path)
        faces = asked.detect(image)
    except ImageError as error:
        return output.failed(picture.path, error)
    marks = [face.mark() for face in faces]
    if draw is not None:
        try:
            save_image(picture_target(draw, picture), draw_faces(image, marks))
        except ImageError as error:  # the answer stands without its copy
            output.failed(picture.path, error)
    if window is not None:
        window.show(draw_faces(image, marks), wait=True)
    return {"path": str(picture.path), "faces": [face.answer for face in faces]}


def _answer_video(
    source: str, asked: Asked, output: Output, draw: Path | None, window: Window | None, every: int
) -> bool:
    """Answer frame by frame, with an id and the mask status of each face and the frames a second of the last frames.

    Returns:
        False when it was interrupted.
    """
    from facekd.detection.tracking import FaceTracker
    from facekd.drawing import BLUE, Mark, draw_faces
    from facekd.video import RateMeter, Video, VideoFile, display_name

    meter = RateMeter()
    tracker = FaceTracker(asked, every)
    statuses: Counter[str] = Counter()
    ids: set[int] = set()
    frames = looks = 0
    interrupted = False
    try:
        with ExitStack() as stack:
            video = stack.enter_context(Video(source))
            copy = stack.enter_context(VideoFile(video_target(draw, video), video.frame_rate)) if draw else None
            for frame in output.progress(video, video.name, total=video.frames):
                tracked = tracker.track(frame.image)
                faces = [_followed(face) for face in tracked.faces]
                rate = meter.tick(time.monotonic())
                frames += 1
                looks += tracked.looked
                ids.update(face.id for face in tracked.faces)
                statuses.update(face.answer["mask"]["status"] for face in faces)
                answer = {
                    "path": video.name,
                    "frame": frame.index,
                    "seconds": round(frame.seconds, 3),
                    "frames_per_second": round(rate, 2),
                    "looked": tracked.looked,
                    "faces": [face.answer for face in faces],
                }
                words = asked.words(faces) or "no face"
                output.result(answer, text=f"{frame.seconds:8.2f} s  {rate:5.1f} frames/s  {words}")
                if copy is not None or window is not None:
                    corner = Mark(np.zeros(4, np.float32), None, f"{rate:.1f} frames/s", BLUE)
                    marked = draw_faces(frame.image, [*(face.mark() for face in faces), corner])
                    if copy is not None:
                        copy.write(marked, frame.seconds if video.live else 0.0)
                    if window is not None and not window.show(marked):
                        break
    except ImageError as error:
        ended = "ended early" if frames else "cannot be read"
        output.result(output.failed(display_name(source), error), text=ended)
    except KeyboardInterrupt:
        # A camera ends only so; what was answered until then stands.
        interrupted = True
        output.say("stopped")
    if frames:
        found = ", ".join(f"{status} {count}" for status, count in sorted(statuses.items())) or "no face"
        output.say(f"{frames} frames; faces by mask status: {found}")
        output.say(f"looked at {looks} of them; ids given: {len(ids)}")
    return not interrupted


def _followed(face: TrackedFace[Found]) -> Found:
    """What was said of the face when it was last looked at, where the face is now."""
    places = {
        "box": [round(float(value), 2) for value in face.box],
        "landmarks": [[round(float(x), 2), round(float(y), 2)] for x, y in face.landmarks],
    }
    said = face.last_seen
    answer = {"id": face.id, "detected": face.detected, **said.answer}
    answer |= {name: place for name, place in places.items() if name in answer}
    return replace(said, box=face.box, landmarks=face.landmarks, answer=answer, label=f"#{face.id} {said.label}")
