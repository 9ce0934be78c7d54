"""Videos written here are read here, and what is no video says so."""

from __future__ import annotations

from pathlib import Path

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
