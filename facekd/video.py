"""Frames of a video file, a camera or a stream, as RGB pictures; and annotated frames back into a file."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.errors import ImageError

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})

_STREAM = re.compile(r"^(rtsps?|rtmps?|https?|udp|tcp)://", re.IGNORECASE)
_CAMERA = re.compile(r"^\d{1,2}$|^/dev/video\d+$")
_CREDENTIALS = re.compile(r"(?<=://)[^/]*@")
"""Up to the last ``@`` before the path: passwords may hold one."""

DEFAULT_FRAME_RATE = 25.0
"""Frames a second of a source that does not say; only what an annotated copy is played back with."""

MISSING_SHARE = 0.1
"""A file may end so much before its announced end, in frames or in time, since both are estimates in some formats."""


def is_live(source: str) -> bool:
    """Whether ``source`` names a camera (``0``, ``/dev/video0``) or a stream (``rtsp://…``)."""
    return bool(_CAMERA.match(source) or _STREAM.match(source))


def is_video(source: str) -> bool:
    """Whether ``source`` names something with frames: a camera, a stream, or a file with a video's suffix."""
    return is_live(source) or Path(source).suffix.lower() in VIDEO_SUFFIXES


def display_name(source: str) -> str:
    """The source as it may be shown and logged: an address, of whatever kind, without user name and password."""
    return _CREDENTIALS.sub("", source)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a video.

    Attributes:
        index: 0 for the first frame.
        seconds: place in a file by its own frame rate; for cameras and streams, time since the first frame.
        image: RGB uint8 ``(H, W, 3)``.
    """

    index: int
    seconds: float
    image: NDArray[np.uint8]


class Video:
    """An open video; iterating gives its frames once.

    Attributes:
        name: the source without a password.
        live: it is a camera or a stream.
        frame_rate: frames a second, as the source says.
        frames: how many there will be, as the source says; None for one that does not end.

    Args:
        source: path of a file, address of a stream, or number of a camera as a string.

    Raises:
        ImageError: nothing there that OpenCV can open.
    """

    def __init__(self, source: str) -> None:
        self.name = display_name(source)
        self.live = is_live(source)
        if not self.live and not Path(source).is_file():
            raise ImageError(f"no such video: {self.name}")
        self._capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
        if not self._capture.isOpened():
            raise ImageError(
                f"cannot open {self.name}: not a video that OpenCV reads, or the camera is missing or busy"
            )
        if self.live:
            # Old frames in a queue would show what happened seconds ago.
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.frame_rate = rate if 0 < rate < 1000 else DEFAULT_FRAME_RATE
        # A file at an http address has a count as well, and may end like any other.
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frames = count if count > 0 else None
        self._duration = count / rate if count > 0 and rate > 0 else 0.0

    def __iter__(self) -> Iterator[Frame]:
        """Read on to the end.

        Raises:
            ImageError: after the last frame that could be read: there was none, the camera or stream ended, or the
                file ends long before its announced end.
        """
        index = 0
        start = place = 0.0
        while True:
            read, picture = self._capture.read()
            if not read:
                break
            place = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
            start = start if index else time.monotonic()
            seconds = time.monotonic() - start if self.live else index / self.frame_rate
            image = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
            yield Frame(index, seconds, image)
            index += 1
        if not index:
            raise ImageError(f"no frame can be read from {self.name}: damaged, or a codec that OpenCV lacks")
        if self.frames is None and self.live:
            raise ImageError(f"{self.name} broke off after {index} frames: is the camera off, or the connection lost?")
        if self.frames is not None and self._ends_early(index, place):
            raise ImageError(f"{self.name} ends after {index} of {self.frames} frames: damaged, or not copied in full")

    def _ends_early(self, frames: int, place: float) -> bool:
        """Whether frames are missing, and time as well: in some formats the count is but duration times rate."""
        kept = 1 - MISSING_SHARE
        return frames < kept * (self.frames or 0) and place + 1 / self.frame_rate < kept * self._duration

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._capture.release()


class VideoFile:
    """Writes RGB frames of one size to an ``.mp4`` file; the first frame fixes the size."""

    def __init__(self, path: str | PathLike[str], frame_rate: float) -> None:
        self.path = Path(path)
        self._frame_rate = frame_rate
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append one frame.

        Raises:
            ImageError: the file cannot be written.
        """
        if self._writer is None:
            height, width = image.shape[:2]
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), codec, self._frame_rate, (width, height))
            if not self._writer.isOpened():
                raise ImageError(f"cannot write {self.path}: no such folder, or OpenCV has no MPEG-4 encoder here")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()


class RateMeter:
    """Frames a second over the last frames.

    Args:
        window: how many frames the mean goes over.

    Example:
        >>> meter = RateMeter()
        >>> [meter.tick(seconds) for seconds in (0.0, 0.5, 1.0)]
        [0.0, 2.0, 2.0]
    """

    def __init__(self, window: int = 30) -> None:
        self._times: deque[float] = deque(maxlen=window + 1)

    def tick(self, now: float) -> float:
        """Count a frame that was done at ``now`` (seconds of a steady clock); 0.0 after the first one."""
        self._times.append(now)
        passed = now - self._times[0]
        return (len(self._times) - 1) / passed if passed > 0 else 0.0
