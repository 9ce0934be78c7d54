"""Videos written here are read here, and what is no video says so."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd.errors import ImageError
from facekd.video import RateMeter, Video, VideoFile, display_name, is_live, is_video

COLOURS = [(220, 30, 30), (30, 220, 30), (30, 30, 220)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoFile(path, 10.0) as file:
        for colour in COLOURS:
            file.write(np.full((48, 64, 3), colour, np.uint8))
    return path


def test_frames_come_back_in_order_and_in_rgb(clip: Path) -> None:
    with Video(str(clip)) as video:
        frames = list(video)
        assert video.frames == 3
        assert video.frame_rate == pytest.approx(10.0)
        assert not video.live
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.seconds for frame in frames] == pytest.approx([0.0, 0.1, 0.2])
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert frame.image.shape == (48, 64, 3)
        assert np.argmax(frame.image.mean(axis=(0, 1))) == np.argmax(colour)


def test_what_is_no_video_is_refused_with_its_name(tmp_path: Path) -> None:
    text = tmp_path / "words.mp4"
    text.write_text("not a video")
    with pytest.raises(ImageError, match=r"words\.mp4"):
        Video(str(text))
    with pytest.raises(ImageError, match=r"missing\.mp4"):
        Video(str(tmp_path / "missing.mp4"))


def test_half_a_video_says_so_after_its_last_frame(tmp_path: Path) -> None:
    path = tmp_path / "half.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for _ in range(20):
        writer.write(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    with Video(str(path)) as video:
        assert len(list(video)) == 20
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = []
    with Video(str(path)) as video, pytest.raises(ImageError, match=r"ends after \d+ of 20 frames"):
        frames.extend(video)
    assert 5 < len(frames) < 15


class _Camera:
    """Frames one and a half seconds after each other by a clock of its own; count and place as given.

    The n-th frame is as bright as n. ``allowed`` says how many reads may go on before a test allows more.
    """

    def __init__(self, count: float, place_ms: float, frames: int, allowed: int) -> None:
        self.now = 100.0
        self.length = self.left = frames
        self.allowed = threading.Semaphore(allowed)
        self.waiting = threading.Event()
        self.released = False
        self.said = {cv2.CAP_PROP_FRAME_COUNT: count, cv2.CAP_PROP_POS_MSEC: place_ms, cv2.CAP_PROP_FPS: 25.0}

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        return self.said[what]

    def read(self) -> tuple[bool, np.ndarray | None]:
        assert not self.released
        if not self.allowed.acquire(blocking=False):
            self.waiting.set()
            assert self.allowed.acquire(timeout=60)
        self.now += 1.5
        self.left -= 1
        return (
            (True, np.full((48, 64, 3), (self.length - self.left) % 256, np.uint8)) if self.left >= 0 else (False, None)
        )

    def release(self) -> None:
        self.released = True

    def allow(self, reads: int) -> None:
        """Let so many frames arrive, and wait until they have."""
        self.waiting.clear()
        self.allowed.release(reads)
        assert self.waiting.wait(60)


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Camera]:
    def make(count: float = -1.0, place_ms: float = 0.0, frames: int = 3, allowed: int = 1000) -> _Camera:
        made = _Camera(count, place_ms, frames, allowed)
        monkeypatch.setattr("facekd.video.cv2.VideoCapture", lambda source: made)
        monkeypatch.setattr("facekd.video.time.monotonic", lambda: made.now)
        return made

    return make


def _camera_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "facekd-camera"]


def test_a_stream_that_breaks_off_is_an_error_and_its_seconds_are_those_of_the_clock(
    camera: Callable[..., _Camera],
) -> None:
    made = camera(allowed=1)
    with Video("rtsp://me:secret@door/1") as video:
        frames = iter(video)
        for seconds in (0.0, 1.5, 3.0):
            assert next(frames).seconds == pytest.approx(seconds)
            made.allowed.release()
        with pytest.raises(ImageError, match=r"^rtsp://door/1 broke off after 3 frames"):
            next(frames)
        assert made.released
    assert _camera_threads() == []


def test_a_camera_gives_its_newest_frame_and_when_that_arrived(camera: Callable[..., _Camera]) -> None:
    made = camera(frames=10, allowed=1)
    with Video(0) as video:
        frames = iter(video)
        assert next(frames).image[0, 0].tolist() == [1, 1, 1]
        made.allow(5)
        made.now += 100.0  # so long it takes until somebody asks for it
        frame = next(frames)
        assert (frame.index, frame.image[0, 0].tolist(), frame.seconds) == (1, [6, 6, 6], pytest.approx(7.5))
        made.allowed.release()
        frame = next(frames)
        assert (frame.index, frame.image[0, 0].tolist()) == (2, [7, 7, 7])
        made.allowed.release(1)
    assert made.released
    assert _camera_threads() == []


def test_a_camera_that_nobody_closes_ends_with_its_video(camera: Callable[..., _Camera]) -> None:
    made = camera(frames=10**9, allowed=10**9)
    for frame in Video("0"):
        assert frame.index == 0
        break
    assert made.released
    assert _camera_threads() == []


def test_a_camera_without_a_frame_says_so(camera: Callable[..., _Camera]) -> None:
    camera(frames=0)
    with Video("rtsp://door/1") as video, pytest.raises(ImageError, match="no frame can be read from rtsp://door/1"):
        next(iter(video))


SENT = 60


@pytest.fixture
def address() -> Iterator[str]:
    """A network camera: 60 numbered frames, 50 a second, and then the last one again and again."""
    frames = []
    for number in range(SENT):
        picture = np.zeros((48, 96, 3), np.uint8)
        for bit in range(6):
            picture[:, bit * 16 : bit * 16 + 16] = 255 * (number >> bit & 1)
        content = cv2.imencode(".jpg", picture)[1].tobytes()
        frames.append(
            b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(content) + content + b"\r\n"
        )
    ended = threading.Event()

    def serve() -> None:
        peer, _ = server.accept()
        with peer:
            peer.settimeout(1.0)
            peer.recv(4096)
            peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=f\r\n\r\n")
            number = 0
            while not ended.wait(0.02):
                try:
                    peer.sendall(frames[min(number, SENT - 1)])
                except TimeoutError:  # the reader is slow: its queue is full
                    continue
                except OSError:
                    return
                number += 1

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/cam.mjpg"
        ended.set()
        thread.join(10)


def test_a_slow_reader_of_a_network_camera_skips_frames(address: str) -> None:
    taken = 0
    with Video(address) as video:
        for frame in video:
            taken += 1
            number = sum(1 << bit for bit in range(6) if frame.image[24, bit * 16 + 8].mean() > 127)
            if number == SENT - 1:
                break
            time.sleep(0.1)
    assert taken < SENT // 2
    assert _camera_threads() == []


@pytest.mark.parametrize(
    ("count", "place_ms"),
    [(3, 80.0), (1000, 39_000.0)],
    ids=["a file at an address has an end", "of frames that come at uneven times the count is a guess"],
)
def test_a_video_that_reaches_its_announced_end_is_whole(
    camera: Callable[..., _Camera], count: float, place_ms: float
) -> None:
    camera(count, place_ms)
    with Video("http://door/clip.webm") as video:
        assert len(list(video)) == 3


def test_a_copy_keeps_the_time_of_a_camera_of_which_frames_were_missed(tmp_path: Path) -> None:
    path = tmp_path / "camera.mp4"
    with VideoFile(path, 10.0) as file:
        for seconds, colour in zip((0.0, 0.31, 0.38), COLOURS, strict=True):
            file.write(np.full((48, 64, 3), colour, np.uint8), seconds)
    with Video(path) as video:
        assert [np.argmax(frame.image.mean(axis=(0, 1))) for frame in video] == [0, 0, 0, 1, 2]


def test_a_copy_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot write"), VideoFile(tmp_path / "no" / "copy.mp4", 10.0) as file:
        file.write(np.zeros((48, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("source", "video", "live"),
    [
        ("", False, False),
        ("photo.jpg", False, False),
        ("folder", False, False),
        ("2024", False, False),
        ("0", True, True),
        ("/dev/video1", True, True),
        ("rtsp://door/stream", True, True),
        ("DOOR.MP4", True, False),
        ("door.webm", True, False),
    ],
)
def test_sources_are_told_apart_by_name(source: str, video: bool, live: bool) -> None:
    assert is_video(source) == video
    assert is_live(source) == live


def test_the_password_of_a_stream_is_never_shown() -> None:
    assert display_name("rtsp://user:secret@door/1") == "rtsp://door/1"
    assert display_name("rtsp://admin:p@ss@door/1") == "rtsp://door/1"
    assert display_name("rtsp://admin:s3/cr@et@door/1") == "rtsp://door/1"
    assert display_name("srt://user:secret@door") == "srt://door"
    assert display_name("a@b.mp4") == "a@b.mp4"
    assert display_name("what?/a.mp4") == "what?/a.mp4"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://10.0.0.1:81/video.cgi?user=admin&pwd=secret", "http://10.0.0.1:81/video.cgi?…"),
        ("http://10.0.0.1:81/video.cgi?user=admin&pwd=s@cret", "http://10.0.0.1:81/video.cgi?…"),
        ("http://door/video.cgi#secret", "http://door/video.cgi?…"),
        ("rtsp://admin:secret@door/1?channel=2", "rtsp://door/1?…"),
        ("rtsp://admin:sec?ret@door/1", "rtsp://?…"),
        ("rtsp://admin:81?secret@door/1", "rtsp://?…"),
        ("rtsp://admin:a@b#secret@door/1", "rtsp://?…"),
    ],
)
def test_nor_is_one_in_the_query(address: str, shown: str) -> None:
    assert display_name(address) == shown


def test_a_path_and_a_number_are_sources(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Video(clip) as video:
        assert video.name == str(clip)
        assert len(list(video)) == 3
    with pytest.raises(ImageError, match=r"missing\.mp4"):
        Video(Path("missing.mp4"))
    monkeypatch.chdir(clip.parent)
    clip.rename("2024")  # a file whose name is a number is no camera
    with Video("2024") as video:
        assert len(list(video)) == 3


def test_rate_is_zero_first_and_the_mean_over_the_window_then() -> None:
    meter = RateMeter(window=2)
    assert [meter.tick(now) for now in (0.0, 1.0, 1.5, 2.0)] == pytest.approx([0.0, 1.0, 2 / 1.5, 2.0])
