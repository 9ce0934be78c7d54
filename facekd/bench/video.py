"""A look at every frame of a video against a look at key frames: time a frame, and how far followed faces are off.

The video is made up (``facekd.bench.synthetic_video``): two people cross before a third who comes closer; then, after a
cut, one turns the head and another leaves. Both ways see every frame in turns, so that a busy moment of the machine
hits both. Times are means over all frames, since a frame that is looked at costs many times one that is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facekd.bench.synthetic_video import PORTRAITS, Actor, Picture, Pose, play
from facekd.detection.tracking import FaceLike, FaceTracker, HasBox, Looks, TrackedFrame
from facekd.errors import ConfigError
from facekd.evaluation.progress import Progress, silently
from facekd.geometry import box_iou

WIDTH, HEIGHT = 640, 480
PEOPLE = 5
"""In both scenes together; who is seen before and after the cut is two people to a tracker."""


def example_video(frames: int) -> Iterator[Picture]:
    """The frames of both scenes, half of them each: RGB uint8 (480, 640, 3)."""
    first, second, third = PORTRAITS
    crossing = [
        Actor(third, Pose(320, 150, 80), Pose(320, 150, 130)),
        Actor(first, Pose(90, 330, 110), Pose(550, 330, 110)),
        Actor(second, Pose(550, 340, 120), Pose(90, 340, 120)),
    ]
    leaving = [
        Actor(second, Pose(200, 240, 130, -15), Pose(240, 230, 150, 15)),
        Actor(third, Pose(430, 250, 120), Pose(740, 250, 120)),
    ]
    yield from (frame.image for frame in play(crossing, frames - frames // 2, (WIDTH, HEIGHT), seed=1))
    yield from (frame.image for frame in play(leaving, frames // 2, (WIDTH, HEIGHT), seed=2))


@dataclass(frozen=True, slots=True)
class VideoReport:
    """What key frames save and cost.

    Attributes:
        frames: of the video.
        looks: how many of them were looked at.
        every_frame_ms, key_frames_ms: mean time a frame.
        ratio: the second over the first; below 1 is a saving.
        followed: boxes on the frames that were not looked at.
        iou_mean, iou_low: overlap of these with the boxes of a look at every frame, mean and first decile; 0 where that
            look found nobody there.
        iou_unmoved_mean: the same mean had they stayed where the detector last saw them.
        kept: of the faces that a look finds in those frames, the share that was followed with an overlap of 0.5.
        ids: how many were given with key frames, and with a look at every frame; ``PEOPLE`` is right.
    """

    frames: int
    looks: int
    every_frame_ms: float
    key_frames_ms: float
    ratio: float
    followed: int
    iou_mean: float
    iou_low: float
    iou_unmoved_mean: float
    kept: float
    ids: tuple[int, int]


def bench_video(
    detector: Looks[FaceLike],
    every: int = 5,
    frames: int = 120,
    progress: Progress = silently,
    clock: Callable[[], float] = time.perf_counter,
) -> VideoReport:
    """Follow the faces of the example video both ways.

    Args:
        detector: what looks: a detector, or a whole pipeline with the name ``detect``.
        every: frames from one look to the next.
        frames: of the whole video.
        progress: shows how far it is.
        clock: seconds; rising.

    Raises:
        ConfigError: ``every`` is 1, or there are fewer frames than would show anything.
    """
    if every < 2 or frames < 4 * every:
        raise ConfigError(f"compare at least every second frame, over four key frames or more: {every=}, {frames=}")
    always, sometimes = FaceTracker(detector, 1), FaceTracker(detector, every)
    pictures = list(example_video(frames))
    detector.detect(pictures[0])  # memory, caches, lazy loading
    seconds = np.zeros(2)
    pairs: list[tuple[TrackedFrame[FaceLike], TrackedFrame[FaceLike]]] = []
    for picture in progress(pictures, "looking and following"):
        start = clock()
        looked = always.track(picture)
        between = clock()
        followed = sometimes.track(picture)
        seconds += between - start, clock() - between
        pairs.append((looked, followed))
    between_looks = [pair for pair in pairs if not pair[1].looked]
    overlaps = [_overlaps(followed.faces, looked.faces) for looked, followed in between_looks]
    unmoved = [_overlaps([f.last_seen for f in followed.faces], looked.faces) for looked, followed in between_looks]
    of_followed, of_unmoved = (np.concatenate([o.max(axis=1, initial=0) for o in both]) for both in (overlaps, unmoved))
    of_looked = np.concatenate([overlap.max(axis=0, initial=0) for overlap in overlaps])
    every_frame_ms, key_frames_ms = seconds / len(pictures) * 1000
    return VideoReport(
        frames=len(pictures),
        looks=sum(followed.looked for _, followed in pairs),
        every_frame_ms=float(every_frame_ms),
        key_frames_ms=float(key_frames_ms),
        ratio=float(key_frames_ms / every_frame_ms),
        followed=len(of_followed),
        iou_mean=float(of_followed.mean()) if len(of_followed) else 0.0,
        iou_low=float(np.quantile(of_followed, 0.1)) if len(of_followed) else 0.0,
        iou_unmoved_mean=float(of_unmoved.mean()) if len(of_unmoved) else 0.0,
        kept=float((of_looked >= 0.5).mean()) if len(of_looked) else 0.0,
        ids=(_ids(followed for _, followed in pairs), _ids(looked for looked, _ in pairs)),
    )


def _overlaps(followed: Sequence[HasBox], looked: Sequence[HasBox]) -> NDArray[np.floating]:
    """IoU of every followed box with every box of the look: (followed, looked)."""
    return box_iou(*(np.array([face.box for face in faces], np.float32).reshape(-1, 4) for faces in (followed, looked)))


def _ids(frames: Iterator[TrackedFrame[FaceLike]]) -> int:
    return len({face.id for frame in frames for face in frame.faces})
