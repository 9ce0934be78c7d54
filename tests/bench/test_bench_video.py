"""`facekd bench video` compares what it says it compares."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facekd import cli
from facekd.bench.synthetic_video import Actor, Pose, play
from facekd.bench.video import bench_video
from facekd.detection.detector import Detection
from facekd.errors import ConfigError


class _Still:
    """Finds one face that stands still, after a second of work."""

    now = 0.0

    def detect(self, image: np.ndarray) -> list[Detection]:
        self.now += 1.0
        return [Detection(np.float32([10, 10, 40, 50]), np.full((5, 2), 20, np.float32), 0.9)]


def test_the_ratio_counts_looks_and_a_face_that_cannot_be_followed_is_looked_at_again() -> None:
    still = _Still()
    report = bench_video(still, every=4, frames=16, clock=lambda: still.now)
    assert report.frames == 16
    assert report.every_frame_ms == pytest.approx(1000)
    # Background stands still and can be followed, until the cut after eight frames: looks at 0, 4, 8 and 12.
    assert report.looks == 4
    assert report.key_frames_ms == pytest.approx(250)
    assert report.ratio == pytest.approx(0.25)
    assert report.followed == 12
    assert report.iou_mean > 0.97
    assert report.kept == 1.0
    assert report.ids == (2, 2)


def test_nobody_found_gives_zeros() -> None:
    class Nobody:
        def detect(self, image: np.ndarray) -> list[Detection]:
            return []

    report = bench_video(Nobody(), every=2, frames=8)
    assert (report.followed, report.iou_mean, report.kept, report.ids) == (0, 0.0, 0.0, (0, 0))


@pytest.mark.parametrize(("every", "frames"), [(1, 20), (5, 19)])
def test_what_would_show_nothing_is_refused(every: int, frames: int) -> None:
    with pytest.raises(ConfigError, match="every"):
        bench_video(_Still(), every=every, frames=frames)


def test_the_shipped_models_follow_faces(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "video", "--every", "5", "--frames", "20", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    for name in ("detector", "pipeline"):
        assert answer[name]["looks"] < answer[name]["frames"] / 2
        assert answer[name]["iou_mean"] > 0.8
        assert answer[name]["kept"] > 0.8


def test_true_faces_are_where_they_are_drawn() -> None:
    actor = Actor("hopper.jpg", Pose(60, 90, 80), Pose(220, 90, 80))
    first, middle, last = play([actor, Actor("obama.jpg", Pose(220, 90, 80), Pose(220, 90, 80))], 3, (320, 180))
    assert first.image.shape == (180, 320, 3)
    box = first.faces[0].box
    assert (box[0] + box[2]) / 2 == pytest.approx(60)
    assert box[3] - box[1] == pytest.approx(80)
    assert middle.faces[0].landmarks - first.faces[0].landmarks == pytest.approx(np.tile([80, 0], (5, 1)), abs=1e-3)
    assert first.faces[0].visible == pytest.approx(1.0, abs=0.05)
    assert last.faces[0].visible < 0.2  # behind the other
    assert last.faces[1].visible == pytest.approx(1.0, abs=0.05)
    # The background is the same in every frame but for noise; the head is not.
    still = np.abs(first.image.astype(int) - middle.image)
    assert still[:, 280:].mean() < 3.5
    assert still[60:120, 30:90].mean() > 10
