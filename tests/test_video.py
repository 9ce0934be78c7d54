"""Videos written here are read here, and what is no video says so."""

from __future__ import annotations

from collections.abc import Callable
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
    """Three frames, one and a half seconds after each other by a clock of its own; count and place as given."""

    def __init__(self, count: float, place_ms: float) -> None:
        self.now = 100.0
        self.left = 3
        self.said = {cv2.CAP_PROP_FRAME_COUNT: count, cv2.CAP_PROP_POS_MSEC: place_ms, cv2.CAP_PROP_FPS: 25.0}

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        return self.said[what]

    def set(self, what: int, value: float) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.now += 1.5
        self.left -= 1
        return (True, np.zeros((48, 64, 3), np.uint8)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        pass


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Camera]:
    def make(count: float = -1.0, place_ms: float = 0.0) -> _Camera:
        made = _Camera(count, place_ms)
        monkeypatch.setattr("facekd.video.cv2.VideoCapture", lambda source: made)
        monkeypatch.setattr("facekd.video.time.monotonic", lambda: made.now)
        return made

    return make


def test_a_stream_that_breaks_off_is_an_error_and_its_seconds_are_those_of_the_clock(
    camera: Callable[..., _Camera],
) -> None:
    camera()
    frames = []
    with (
        Video("rtsp://me:secret@door/1") as video,
        pytest.raises(ImageError, match=r"^rtsp://door/1 broke off after 3 frames"),
    ):
        frames.extend(video)
    assert [frame.seconds for frame in frames] == pytest.approx([0.0, 1.5, 3.0])


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
    assert display_name("rtsp://admin:p@ss@door/1@2x") == "rtsp://door/1@2x"
    assert display_name("srt://user:secret@door") == "srt://door"
    assert display_name("a@b.mp4") == "a@b.mp4"


def test_rate_is_zero_first_and_the_mean_over_the_window_then() -> None:
    meter = RateMeter(window=2)
    assert [meter.tick(now) for now in (0.0, 1.0, 1.5, 2.0)] == pytest.approx([0.0, 1.0, 2 / 1.5, 2.0])
