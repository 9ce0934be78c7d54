"""`facekd detect` with a pipeline that finds one face in bright pictures and none in dark ones."""

from __future__ import annotations

import json
import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekd import cli
from facekd.errors import ModelError
from facekd.video import Video, VideoFile


class _FakeFace:
    score = 0.9
    box = np.float32([10, 12, 40, 52])
    landmarks = np.float32([[18, 25], [32, 25], [25, 32], [19, 42], [31, 42]])
    mask = types.SimpleNamespace(status="incorrect", score=0.75)

    def to_dict(self) -> dict[str, Any]:
        return {
            "box": self.box.tolist(),
            "landmarks": self.landmarks.tolist(),
            "score": 0.9,
            "mask": {"status": "incorrect", "score": 0.75},
            "quality": {"score": 0.5, "reasons": ["dark"]},
        }


class _FakePipeline:
    def analyze(self, image: np.ndarray) -> list[_FakeFace]:
        return [_FakeFace()] if image.mean() > 100 else []


@pytest.fixture(autouse=True)
def _fake_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("facekd.pipeline")
    module.FacePipeline = _FakePipeline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "facekd.pipeline", module)


def _save(path: Path, brightness: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 80, 3), brightness, np.uint8)).save(path)
    return path


def _clip(path: Path) -> Path:
    with VideoFile(path, 10.0) as file:
        for brightness in (200, 20, 200):
            file.write(np.full((64, 80, 3), brightness, np.uint8))
    return path


def test_one_object_with_an_entry_for_every_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bright, dark = _save(tmp_path / "bright.png", 200), _save(tmp_path / "dark.png", 20)
    assert cli.run(["detect", str(bright), str(dark), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "images": [{"path": str(bright), "faces": [_FakeFace().to_dict()]}, {"path": str(dark), "faces": []}]
    }


def test_bad_inputs_are_reported_and_the_others_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = _save(tmp_path / "good.png", 200)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 not a picture")
    (tmp_path / "empty").mkdir()
    missing = tmp_path / "missing.jpg"
    code = cli.run(["detect", str(broken), str(missing), str(tmp_path / "empty"), str(good), "--json"])
    captured = capsys.readouterr()
    assert code == 3
    entries = {Path(entry["path"]).name: entry for entry in json.loads(captured.out)["images"]}
    assert len(entries["good.png"]["faces"]) == 1
    for name in ("broken.jpg", "missing.jpg", "empty"):
        assert entries[name]["error"]
        assert name in captured.err


def test_people_get_a_line_a_face(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bright, dark = _save(tmp_path / "bright.png", 200), _save(tmp_path / "dark.png", 20)
    assert cli.run(["detect", str(bright), str(dark)]) == 0
    printed = capsys.readouterr().out
    assert "incorrect 0.75" in printed
    assert "0.50 dark" in printed
    assert "no face" in printed


def test_marked_copies_keep_the_place_in_the_folder_and_replace_nothing(tmp_path: Path) -> None:
    _save(tmp_path / "in" / "one" / "a.png", 200)
    _save(tmp_path / "in" / "two" / "a.bmp", 200)
    marked = tmp_path / "in"
    assert cli.run(["detect", str(tmp_path / "in"), "--draw", str(marked)]) == 0
    assert (np.array(Image.open(tmp_path / "in" / "one" / "a.png")) == 200).all()
    copy = np.array(Image.open(marked / "one" / "a-2.png"))
    assert copy.shape == (64, 80, 3)
    assert (copy != 200).any()
    assert (marked / "two" / "a.png").is_file()


def test_a_marked_copy_that_cannot_be_written_costs_no_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("in/1.png", "in/sub/2.png", "in/sub/3.png"):
        _save(tmp_path / place, 200)
    (tmp_path / "marked").mkdir()
    (tmp_path / "marked" / "sub").write_text("a file where a folder should be")
    assert cli.run(["detect", str(tmp_path / "in"), "--draw", str(tmp_path / "marked"), "--json"]) == 3
    captured = capsys.readouterr()
    assert [len(entry["faces"]) for entry in json.loads(captured.out)["images"]] == [1, 1, 1]
    assert captured.err.count(f"the folder {tmp_path / 'marked' / 'sub'} cannot be used") == 2
    assert (tmp_path / "marked" / "1.png").is_file()


def test_a_video_gives_one_object_a_line_with_rate_and_mask_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = _clip(tmp_path / "clip.mp4")
    assert cli.run(["detect", str(clip), "--json", "--draw", str(tmp_path / "marked")]) == 0
    captured = capsys.readouterr()
    frames = [json.loads(line) for line in captured.out.splitlines()]
    assert [frame["frame"] for frame in frames] == [0, 1, 2]
    assert [len(frame["faces"]) for frame in frames] == [1, 0, 1]
    assert frames[0]["faces"][0]["mask"]["status"] == "incorrect"
    assert all(frame["looked"] for frame in frames)
    assert frames[0]["faces"][0] == {"id": 1, "detected": True, **_FakeFace().to_dict()}
    assert frames[0]["frames_per_second"] == 0.0
    assert frames[2]["frames_per_second"] > 0.0
    assert "3 frames; faces by mask status: incorrect 2" in captured.err
    with Video(str(tmp_path / "marked" / "clip.mp4")) as copy:
        assert len(list(copy)) == 3


def test_with_key_frames_a_video_is_looked_at_less_often_and_every_face_keeps_its_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    monkeypatch.setattr(_FakePipeline, "analyze", lambda self, image: looks.append(image.mean()) or [_FakeFace()])
    scenery = (np.random.default_rng(0).integers(0, 2, (16, 20, 3)) * 120 + 60).astype(np.uint8)
    clip = tmp_path / "clip.mp4"
    with VideoFile(clip, 10.0) as file:
        for _ in range(7):
            file.write(np.kron(scenery, np.ones((8, 8, 1), np.uint8)))
    assert cli.run(["detect", str(clip), "--every", "3", "--json", "--draw", str(tmp_path / "marked")]) == 0
    captured = capsys.readouterr()
    frames = [json.loads(line) for line in captured.out.splitlines()]
    assert len(looks) == 3
    assert [frame["looked"] for frame in frames] == [True, False, False, True, False, False, True]
    faces = [face for frame in frames for face in frame["faces"]]
    assert [face["id"] for face in faces] == [1] * 7
    assert [face["detected"] for face in faces] == [frame["looked"] for frame in frames]
    for face in faces:
        assert face["box"] == pytest.approx(_FakeFace.box.tolist(), abs=1)
        assert np.abs(np.array(face["landmarks"]) - _FakeFace.landmarks).max() < 1
        assert face["mask"] == {"status": "incorrect", "score": 0.75}
    assert "7 frames; faces by mask status: incorrect 7" in captured.err
    assert "looked at 3 of them; ids given: 1" in captured.err
    assert cli.run(["detect", str(clip), "--every", "0"]) == 2


def test_ids_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []
    monkeypatch.setattr("facekd.drawing._draw_label", lambda canvas, mark, line: labels.append(mark.label))
    assert cli.run(["detect", str(_clip(tmp_path / "clip.mp4")), "--draw", str(tmp_path / "marked")]) == 0
    assert [label for label in labels if "frames/s" not in label] == ["#1 incorrect 0.75"] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_folder_that_is_interrupted_keeps_its_answers(
    tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    analyze = _FakePipeline.analyze
    handlers = [signal.getsignal(item) for item in (signal.SIGINT, signal.SIGTERM)]
    looks = 0

    def interrupted(self: _FakePipeline, image: np.ndarray) -> list[_FakeFace]:
        nonlocal looks
        looks += 1
        if looks == 3:
            os.kill(os.getpid(), number)
        return analyze(self, image)

    monkeypatch.setattr(_FakePipeline, "analyze", interrupted)
    for name in "abcde":
        _save(tmp_path / "in" / f"{name}.png", 200)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody heeds SIGTERM"))
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.run(["detect", str(tmp_path / "in"), "--json"]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, ignored)
    assert [Path(entry["path"]).name for entry in json.loads(capsys.readouterr().out)["images"]] == ["a.png", "b.png"]
    assert [signal.getsignal(item) for item in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_what_breaks_in_a_folder_costs_no_answer_that_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: _FakePipeline, image: np.ndarray) -> list[_FakeFace]:
        if image.mean() > 100:
            raise ModelError("the detector is damaged")
        return []

    monkeypatch.setattr(_FakePipeline, "analyze", breaks)
    dark, bright = _save(tmp_path / "dark.png", 20), _save(tmp_path / "bright.png", 200)
    assert cli.run(["detect", str(dark), str(bright), "--json"]) == 4
    assert json.loads(capsys.readouterr().out) == {"images": [{"path": str(dark), "faces": []}]}
    assert cli.run(["detect", str(bright), "--json"]) == 4
    assert json.loads(capsys.readouterr().out) == {"error": "the detector is damaged", "exit_code": 4}


def test_a_video_that_is_terminated_leaves_a_copy_that_can_be_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    analyze = _FakePipeline.analyze
    looks = 0

    def terminated(self: _FakePipeline, image: np.ndarray) -> list[_FakeFace]:
        nonlocal looks
        looks += 1
        if looks == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return analyze(self, image)

    monkeypatch.setattr(_FakePipeline, "analyze", terminated)
    clips = [str(_clip(tmp_path / name)) for name in ("one.mp4", "two.mp4")]
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody heeds SIGTERM"))
    try:
        # The second video is not begun: who sends SIGTERM wants an end.
        assert cli.run(["detect", *clips, "--json", "--draw", str(tmp_path / "marked")]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()] == [clips[0]] * 2
    with Video(tmp_path / "marked" / "one.mp4") as copy:
        assert len(list(copy)) == 2


def test_a_broken_video_does_not_stop_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = _save(tmp_path / "good.png", 200)
    broken = tmp_path / "broken.mp4"
    broken.write_text("words")
    assert cli.run(["detect", str(broken), str(good), "--json"]) == 3
    captured = capsys.readouterr()
    pictures, video = map(json.loads, captured.out.splitlines())
    assert len(pictures["images"]) == 1
    assert set(video) == {"path", "error"}
    assert video["path"] == str(broken)
    assert "broken.mp4" in captured.err


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://admin:s3@cret@127.0.0.1:1/door",
        "rtsp://admin:s3/cret@127.0.0.1:1/door",
        "srt://admin:s3@cret@127.0.0.1:1/door",
        "http://127.0.0.1:1/door?user=admin&pwd=s3/cret",
    ],
)
def test_a_cameras_password_is_not_printed(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["detect", address, "--json"]) == 3
    captured = capfd.readouterr()
    assert "127.0.0.1:1/door" in captured.err
    for secret in ("admin", "s3", "cret"):
        assert secret not in captured.err + captured.out


def test_show_without_a_display_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    def no_window(*_: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", no_window)
    assert cli.run(["detect", str(_save(tmp_path / "a.png", 200)), "--show"]) == 2
    assert "opencv-python" in capsys.readouterr().err


def test_q_in_the_window_stops_a_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    shown: list[np.ndarray] = []
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "destroyWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q"))
    assert cli.run(["detect", str(_clip(tmp_path / "clip.mp4")), "--show", "--json"]) == 0
    assert len(shown) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1
