"""Frames of a video file, a camera or a stream, as RGB pictures; and annotated frames back into a file."""

from __future__ import annotations

import os
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.errors import ImageError

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})

_STREAM = re.compile(r"^(rtsps?|rtmps?|https?|udp|tcp)://", re.IGNORECASE)
_CAMERA = re.compile(r"^\d{1,2}$|^/dev/video\d+$")
_HOST_AND_PATH = re.compile(r"[^:@/]*(:\d+)?/[^:@]*")
"""What comes before a query and can hold no password."""

DEFAULT_FRAME_RATE = 25.0
"""Frames a second of a source that does not say; only what an annotated copy is played back with."""

MISSING_SHARE = 0.1
"""A file may end so much before its announced end, in frames or in time, since both are estimates in some formats."""

CLOSE_WAIT_S = 2.0
"""How long closing waits for a camera's read to return; one that hangs is left to end by OpenCV's own time limit."""


def is_live(source: str) -> bool:
    """Whether ``source`` names a camera (``0``, ``/dev/video0``) or a stream (``rtsp://…``)."""
    return bool(_CAMERA.match(source) or _STREAM.match(source))


def is_video(source: str) -> bool:
    """Whether ``source`` names something with frames: a camera, a stream, or a file with a video's suffix."""
    return is_live(source) or Path(source).suffix.lower() in VIDEO_SUFFIXES


def display_name(source: str) -> str:
    """The source as it may be shown and logged: an address, of whatever kind, without user, password and query.

    Passwords may hold ``@`` and ``/``, so everything up to the last ``@`` goes; many cameras take theirs in the query.
    """
    scheme, mark, address = source.partition("://")
    if not mark:
        return source
    query = re.search(r"[?#].*", address, re.DOTALL)
    place = address[: query.start()] if query else address
    if query and "@" in query.group() and not _HOST_AND_PATH.fullmatch(place):
        place = ""  # perhaps a password with a question mark in it
    return scheme + mark + place.rpartition("@")[2] + ("?…" if query else "")


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a video.

    Attributes:
        index: 0 for the first frame.
        seconds: place in a file by its own frame rate; for cameras and streams, when it arrived, since the first one
            did.
        image: RGB uint8 ``(H, W, 3)``.
    """

    index: int
    seconds: float
    image: NDArray[np.uint8]


class Video:
    """An open video; iterating gives its frames once.

    A file gives every frame. A camera or stream is read in a thread of its own from the moment it is opened, and gives
    the newest frame only: who takes longer for a frame than the camera does misses frames, and none is old.

    Attributes:
        name: the source without a password.
        live: it is a camera or a stream.
        frame_rate: frames a second, as the source says.
        frames: how many there will be, as the source says; None for one that does not end.

    Args:
        source: path of a file, address of a stream, or number of a camera.

    Raises:
        ImageError: nothing there that OpenCV can open.
    """

    def __init__(self, source: int | str | PathLike[str]) -> None:
        source = str(source) if isinstance(source, int) else os.fspath(source)
        self.name = display_name(source)
        self.live = is_live(source)
        if not self.live and not Path(source).is_file():
            raise ImageError(f"no such video: {self.name}")
        self._capture = cv2.VideoCapture(int(source) if self.live and source.isdigit() else source)
        if not self._capture.isOpened():
            raise ImageError(
                f"cannot open {self.name}: not a video that OpenCV reads, or the camera is missing or busy"
            )
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.frame_rate = rate if 0 < rate < 1000 else DEFAULT_FRAME_RATE
        # A file at an http address has a count as well, and may end like any other.
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frames = count if count > 0 else None
        self._duration = count / rate if count > 0 and rate > 0 else 0.0
        # Frames in a queue would show what happened seconds ago, and OpenCV cannot switch FFmpeg's queues off.
        self._newest = _NewestFrame(self._capture) if self.live and self.frames is None else None
        # Of one that nobody closes, too, and before the interpreter ends.
        self._close = weakref.finalize(self, self._newest.close if self._newest else self._capture.release)

    def __iter__(self) -> Iterator[Frame]:
        """Read on to the end.

        Raises:
            ImageError: after the last frame that could be read: there was none, the camera or stream ended, or the
                file ends long before its announced end.
        """
        yield from self._of_file() if self._newest is None else self._of_camera(self._newest)

    def _of_file(self) -> Iterator[Frame]:
        index = 0
        start = place = 0.0
        while True:
            read, picture = self._capture.read()
            if not read:
                break
            place = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
            start = start if index else time.monotonic()
            seconds = time.monotonic() - start if self.live else index / self.frame_rate
            yield Frame(index, seconds, _rgb(picture))
            index += 1
        if not index:
            raise self._nothing_to_read()
        if self.frames is not None and self._ends_early(index, place):
            raise ImageError(f"{self.name} ends after {index} of {self.frames} frames: damaged, or not copied in full")

    def _of_camera(self, newest: _NewestFrame) -> Iterator[Frame]:
        index = 0
        start: float | None = None
        while (arrived := newest.take()) is not None:
            seconds, picture = arrived
            start = seconds if start is None else start
            yield Frame(index, seconds - start, _rgb(picture))
            index += 1
        if not newest.count:
            raise self._nothing_to_read()
        raise ImageError(
            f"{self.name} broke off after {newest.count} frames: is the camera off, or the connection lost?"
        )

    def _nothing_to_read(self) -> ImageError:
        return ImageError(f"no frame can be read from {self.name}: damaged, or a codec that OpenCV lacks")

    def _ends_early(self, frames: int, place: float) -> bool:
        """Whether frames are missing, and time as well: in some formats the count is but duration times rate."""
        kept = 1 - MISSING_SHARE
        return frames < kept * (self.frames or 0) and place + 1 / self.frame_rate < kept * self._duration

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()


class _NewestFrame:
    """Reads a camera or stream in a thread and keeps the newest frame alone, with the time at which it arrived.

    Attributes:
        count: how many frames have arrived.
    """

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self.count = 0
        self._capture = capture
        self._newest: tuple[float, NDArray[Any]] | None = None
        self._closing = self._ended = False
        self._change = threading.Condition()
        # A read that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._read, name="facekd-camera", daemon=True)
        self._thread.start()

    def take(self) -> tuple[float, NDArray[Any]] | None:
        """A frame newer than the last one taken, waiting for it if need be; None once there will be no more."""
        with self._change:
            while self._newest is None and not self._ended:
                self._change.wait(0.5)  # with a limit, so that Ctrl-C is noticed on Windows, too
            newest, self._newest = self._newest, None
            return newest

    def close(self) -> None:
        """End the thread, and with it the capture."""
        self._closing = True
        if threading.current_thread() is not self._thread:  # which may be the one that collects garbage
            self._thread.join(CLOSE_WAIT_S)

    def _read(self) -> None:
        try:
            while not self._closing:
                read, picture = self._capture.read()
                if not read:
                    break
                with self._change:
                    self.count += 1
                    self._newest = time.monotonic(), picture
                    self._change.notify()
        finally:
            # Here, where nothing is being read any more: releasing beside a read would crash.
            self._capture.release()
            with self._change:
                self._ended = True
                self._change.notify()


def _rgb(picture: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


class VideoFile:
    """Writes RGB frames of one size to an ``.mp4`` file; the first frame fixes the size."""

    def __init__(self, path: str | PathLike[str], frame_rate: float) -> None:
        self.path = Path(path)
        self._frame_rate = frame_rate
        self._writer: cv2.VideoWriter | None = None
        self._last: NDArray[Any] | None = None
        self._written = 0

    def write(self, image: NDArray[np.uint8], seconds: float = 0.0) -> None:
        """Append one frame.

        Args:
            image: RGB.
            seconds: when it was seen; the frame before is repeated until then, so that the file keeps the time of a
                camera of which frames were missed.

        Raises:
            ImageError: the file cannot be written.
        """
        if self._writer is None:
            height, width = image.shape[:2]
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), codec, self._frame_rate, (width, height))
            if not self._writer.isOpened():
                raise ImageError(f"cannot write {self.path}: no such folder, or OpenCV has no MPEG-4 encoder here")
        while self._last is not None and self._written < round(seconds * self._frame_rate):
            self._writer.write(self._last)
            self._written += 1
        self._last = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        self._writer.write(self._last)
        self._written += 1

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
