"""Faces of a video keep their ids between key frames, on videos of which every face is known."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from facekd.bench.synthetic_video import Actor, Pose, SyntheticFrame, TrueFace, play
from facekd.detection.detector import Detection
from facekd.detection.tracking import FaceTracker, TrackedFrame
from facekd.errors import ConfigError
from facekd.geometry import box_iou

SIZE = (480, 360)
OBAMA, BIDEN, HOPPER = "obama.jpg", "biden.jpg", "hopper.jpg"


class Oracle:
    """Finds what is there: heads of which more than half can be seen. ``blind`` are the looks that find nothing."""

    def __init__(self, blind: Iterable[int] = ()) -> None:
        self.frame: SyntheticFrame | None = None
        self.blind = set(blind)
        self.looks = 0

    def detect(self, image: np.ndarray) -> list[Detection]:
        assert self.frame is not None
        assert image.shape == self.frame.image.shape
        self.looks += 1
        if self.looks in self.blind:
            return []
        return [Detection(face.box, face.landmarks, 0.9 - 0.1 * face.actor) for face in visible(self.frame)]


def visible(frame: SyntheticFrame) -> list[TrueFace]:
    return [face for face in frame.faces if face.visible > 0.5]


def follow(
    frames: Iterable[SyntheticFrame], oracle: Oracle | None = None, **settings: int
) -> tuple[list[SyntheticFrame], list[TrackedFrame[Detection]], Oracle]:
    oracle = oracle or Oracle()
    tracker = FaceTracker(oracle, **settings)
    seen, tracked = [], []
    for frame in frames:
        oracle.frame = frame
        seen.append(frame)
        tracked.append(tracker.track(frame.image))
    return seen, tracked, oracle


def actors_of(frame: SyntheticFrame, tracked: TrackedFrame[Detection]) -> dict[int, int]:
    """Actor by id: whose true box each tracked one overlaps by more than 0.8; fails where it is nobody's."""
    found = {}
    for face in tracked.faces:
        overlaps = box_iou(face.box[None], np.array([true.box for true in frame.faces]))[0]
        assert overlaps.max() > 0.8, f"id {face.id} is on nobody: {overlaps}"
        found[face.id] = frame.faces[int(overlaps.argmax())].actor
    return found


def eye_shares_off(frame: SyntheticFrame, tracked: TrackedFrame[Detection]) -> list[float]:
    """For each tracked face the farthest landmark from the truth, in eye distances."""
    actors = actors_of(frame, tracked)
    off = []
    for face in tracked.faces:
        true = frame.faces[actors[face.id]].landmarks
        off.append(float(np.linalg.norm(face.landmarks - true, axis=1).max() / np.linalg.norm(true[0] - true[1])))
    return off


MOVING = {
    "across": Actor(OBAMA, Pose(80, 150, 90), Pose(380, 210, 90)),
    "growing": Actor(HOPPER, Pose(240, 180, 60), Pose(240, 180, 200)),
    "turning and shrinking": Actor(BIDEN, Pose(150, 150, 140, -20), Pose(300, 200, 90, 20)),
    "small": Actor(BIDEN, Pose(100, 100, 26), Pose(250, 160, 26)),
}


@pytest.mark.parametrize("name", MOVING)
def test_a_moving_face_is_followed_to_a_few_percent_of_the_eye_distance(name: str) -> None:
    frames, tracked, oracle = follow(play([MOVING[name]], 21, SIZE), every=5)
    assert oracle.looks == 5
    assert [index for index, frame in enumerate(tracked) if frame.looked] == [0, 5, 10, 15, 20]
    assert all([face.id for face in frame.faces] == [1] for frame in tracked)
    assert all(frame.faces[0].detected == frame.looked for frame in tracked)
    off = [share for pair in zip(frames, tracked, strict=True) for share in eye_shares_off(*pair)]
    assert max(off) < 0.04
    # A box that stayed where the detector saw it last would be off by more than this in every one of these videos.
    held = [true.faces[0].landmarks - frames[5 * (i // 5)].faces[0].landmarks for i, true in enumerate(frames)]
    assert max(np.abs(distance).max() for distance in held) > 3 * max(
        share * np.linalg.norm(frame.faces[0].landmarks[0] - frame.faces[0].landmarks[1])
        for share, frame in zip(off, frames, strict=True)
    )


def test_the_same_frames_give_the_same_faces() -> None:
    frames = list(play([MOVING["across"], MOVING["growing"]], 8, SIZE))
    first, second = (follow(frames, every=4)[1] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert [face.id for face in a.faces] == [face.id for face in b.faces]
        assert all(np.array_equal(x.landmarks, y.landmarks) for x, y in zip(a.faces, b.faces, strict=True))


@pytest.mark.parametrize(
    "heights", [(100, 100), (110, 70), (70, 110)], ids=["equals", "a small one before", "a large one before"]
)
def test_two_people_cross_and_keep_their_ids(heights: tuple[int, int]) -> None:
    behind = Actor(OBAMA, Pose(80, 180, heights[0]), Pose(400, 180, heights[0]))
    before = Actor(BIDEN, Pose(400, 185, heights[1]), Pose(80, 185, heights[1]))
    frames, tracked, _ = follow(play([behind, before], 50, SIZE), every=5)
    assert {face.id for frame in tracked for face in frame.faces} == {1, 2}
    lost = 0
    for frame, found in zip(frames, tracked, strict=True):
        actors = actors_of(frame, found)
        assert all(actors[identifier] == identifier - 1 for identifier in actors)
        lost += sum(face.actor not in actors.values() for face in visible(frame))
    # Whoever comes out from behind another is found with the next key frame, and nobody else is lost.
    assert lost <= 4


def test_who_leaves_is_gone_and_who_stays_stays() -> None:
    stays = Actor(OBAMA, Pose(150, 180, 100), Pose(150, 180, 100))
    leaves = Actor(BIDEN, Pose(330, 180, 100), Pose(560, 180, 100))
    frames, tracked, oracle = follow(play([stays, leaves], 31, SIZE), every=5)
    for frame, found in zip(frames, tracked, strict=True):
        ids = [face.id for face in found.faces]
        assert 1 in ids
        assert ids == ([1, 2] if frame.faces[1].visible > 0.6 else ids)
        assert 2 not in ids or frame.faces[1].visible > 0.3
    assert [face.id for face in tracked[-1].faces] == [1]
    assert oracle.looks <= 7 + 3  # the key frames, and three looks at who is cut by the edge


def test_a_new_scene_is_looked_at_on_its_first_frame_and_has_new_ids() -> None:
    here = Pose(200, 180, 110)
    first = play([Actor(OBAMA, here, here)], 8, SIZE, seed=1)
    second = play([Actor(BIDEN, here, here)], 7, SIZE, seed=2)
    _, tracked, oracle = follow([*first, *second], every=5)
    assert [index for index, frame in enumerate(tracked) if frame.looked] == [0, 5, 8, 13]
    assert [[face.id for face in frame.faces] for frame in tracked] == [[1]] * 8 + [[2]] * 7
    assert oracle.looks == 4


def test_a_new_scene_is_looked_at_even_if_nobody_was_there_before() -> None:
    here = Pose(200, 180, 110)
    _, tracked, _ = follow([*play([], 7, SIZE, seed=1), *play([Actor(BIDEN, here, here)], 2, SIZE, seed=2)], every=5)
    assert [index for index, frame in enumerate(tracked) if frame.looked] == [0, 5, 7]
    assert [len(frame.faces) for frame in tracked] == [0] * 7 + [1, 1]


def test_frames_of_another_size_are_another_scene() -> None:
    here = Pose(150, 150, 100)
    frames = [*play([Actor(OBAMA, here, here)], 2, SIZE), *play([Actor(OBAMA, here, here)], 2, (400, 300))]
    _, tracked, oracle = follow(frames, every=5)
    assert [[face.id for face in frame.faces] for frame in tracked] == [[1], [1], [2], [2]]
    assert oracle.looks == 2


@pytest.mark.parametrize(("count", "looks"), [(1, 1), (5, 1), (6, 2), (11, 3)])
def test_empty_frames_cost_key_frames_only(count: int, looks: int) -> None:
    _, tracked, oracle = follow(play([], count, SIZE, noise=12.0), every=5)
    assert oracle.looks == looks
    assert all(frame.faces == () for frame in tracked)


def test_flat_frames_and_a_single_frame() -> None:
    flat = SyntheticFrame(np.full((360, 480, 3), 90, np.uint8), ())
    assert follow([flat] * 6, every=3)[2].looks == 2
    _, tracked, _ = follow(play([MOVING["across"]], 1, SIZE), every=5)
    assert [(face.id, face.detected) for face in tracked[0].faces] == [(1, True)]
    assert follow([])[1] == []


def test_a_missed_key_frame_loses_nobody_and_every_1_reports_what_the_detector_finds() -> None:
    frames = list(play([MOVING["across"]], 21, SIZE))
    # Of the looks at frames 0, 5, 10, 15 and 20 the third finds nothing.
    _, tracked, _ = follow(frames, Oracle(blind=[3]), every=5)
    assert [[face.id for face in frame.faces] for frame in tracked] == [[1]] * 21
    assert tracked[10].looked
    assert not tracked[10].faces[0].detected
    _, tracked, _ = follow(frames, Oracle(blind=[10]), every=1)
    assert all(frame.looked for frame in tracked)
    assert [[face.id for face in frame.faces] for frame in tracked] == [[1]] * 9 + [[]] + [[1]] * 11
    assert all(face.detected for frame in tracked for face in frame.faces)


def test_a_false_alarm_does_not_outlive_the_next_look() -> None:
    frames = list(play([MOVING["across"]], 11, SIZE))
    _, tracked, _ = follow(frames, Oracle(blind=[2, 3]), every=5)
    assert [len(frame.faces) for frame in tracked] == [1] * 5 + [0] * 6


def test_who_stays_away_too_long_is_somebody_new() -> None:
    frames = list(play([MOVING["across"]], 26, SIZE))
    blind = Oracle(blind=range(4, 12))
    ids = [[face.id for face in frame.faces] for frame in follow(frames, blind, every=1, keep_frames=10)[1]]
    assert ids == [[1]] * 3 + [[]] * 8 + [[1]] * 15
    blind = Oracle(blind=range(4, 12))
    ids = [[face.id for face in frame.faces] for frame in follow(frames, blind, every=1, keep_frames=5)[1]]
    assert ids == [[1]] * 3 + [[]] * 8 + [[2]] * 15


def test_faces_come_by_score_and_carry_what_was_last_seen() -> None:
    frames, tracked, _ = follow(play([MOVING["small"], MOVING["growing"]], 31, SIZE), every=5)
    assert [face.score for face in tracked[4].faces] == pytest.approx([0.9, 0.8])
    for face, true in zip(tracked[4].faces, frames[0].faces, strict=True):
        assert np.array_equal(face.last_seen.box, true.box)
        assert not np.array_equal(face.box, true.box)


@pytest.mark.parametrize(
    "settings",
    [
        {"every": 0},
        {"bridged": -1},
        {"keep_frames": -1},
        {"same_face_iou": 0.0},
        {"same_face_iou": 1.0},
        {"every": "5"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        FaceTracker(Oracle(), **settings)
