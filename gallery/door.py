"""Temporal decisions for a door: who is let in, from many frames instead of one.

One frame in a thousand may name a stranger; a camera gives thousands in a few minutes. So a grant needs several frames
of one face that agree over some time, a face gets a limited time to be recognised, failures are throttled, and a grant
is followed by a pause. Faces are followed from frame to frame by the overlap of their boxes.

What this is not: a smaller error rate, since frames of one face are no independent pictures, and who is taken for
somebody in one of them is likely to be in the next. Nor is it proof that a living person stands there: a photograph
held still agrees with itself in every frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from facekd.errors import ConfigError
from facekd.gallery.decision import Decision
from facekd.geometry import box_iou

EventKind = Literal["granted", "failed", "locked"]


@dataclass(frozen=True, slots=True)
class DoorPolicy:
    """The rules of a door; times in seconds.

    Attributes:
        agreeing_frames: frames that must name the same person, with no frame between them that names somebody else or
            nobody. Frames to try again neither count nor disturb.
        agree_within_s: the agreeing frames lie no further apart than this, first to last.
        agree_over_s: and no closer together, however fast the frames come: three of thirty a second are one picture.
        attempt_s: how long one face may try; then the attempt has failed.
        lost_after_s: a face not seen for so long, and in two frames at least, has left; coming back is a new attempt.
            So has a face of which no frame tells for ``attempt_s``.
        cool_down_s: after a grant nobody is granted for so long, since the door is open.
        failures: so many failed attempts within ``failure_window_s`` lock the door for ``lock_s``.
        failure_window_s: see ``failures``.
        lock_s: see ``failures``; while locked, neither frames nor failures are counted.
        same_face_iou: overlap of two boxes from which they are one face, 0..1.
    """

    agreeing_frames: int = 3
    agree_within_s: float = 4.0
    agree_over_s: float = 0.5
    attempt_s: float = 8.0
    lost_after_s: float = 1.0
    cool_down_s: float = 5.0
    failures: int = 5
    failure_window_s: float = 60.0
    lock_s: float = 30.0
    same_face_iou: float = 0.3

    def __post_init__(self) -> None:
        for name in ("agreeing_frames", "failures"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a door must be at least 1, got {getattr(self, name)}")
        times = ("agree_within_s", "agree_over_s", "attempt_s", "lost_after_s", "cool_down_s", "failure_window_s")
        for name in (*times, "lock_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} of a door must be 0 or more seconds, got {getattr(self, name)}")
        if self.agree_over_s > self.agree_within_s:
            raise ConfigError(
                f"frames cannot agree over {self.agree_over_s} s within {self.agree_within_s} s: "
                "make agree_over_s the smaller one"
            )
        if not 0 < self.same_face_iou < 1:
            raise ConfigError(f"same_face_iou must lie between 0 and 1, got {self.same_face_iou}")


@dataclass(frozen=True, slots=True)
class Sighting:
    """One face of one frame: its box (4,) in pixels, and what :meth:`Gallery.identify` said."""

    box: npt.NDArray[np.float32]
    decision: Decision


@dataclass(frozen=True, slots=True)
class DoorEvent:
    """Something to act on or to log.

    Attributes:
        kind: ``granted``: open the door for ``person``. ``failed``: a face ran out of time without a grant, or left as
            nobody who is enrolled. ``locked``: too many failures.
        at: the frame's time, seconds.
        face: number of the face, rising from 1.
        person: who is let in; None unless granted.
    """

    kind: EventKind
    at: float
    face: int
    person: str | None = None


@dataclass(slots=True)
class _Face:
    number: int
    box: npt.NDArray[np.float32]
    since: float
    last_seen: float
    unseen: int = 0
    """Frames in a row without it."""
    answered: bool = False
    """At least one frame named somebody or nobody: who leaves as nobody has failed, and is no passer-by."""
    done: bool = False
    """Granted or failed; the face must leave before it may try again."""
    person: str | None = None
    """Whom the last frame that answered named."""
    agreeing: deque[float] = field(default_factory=deque)


class Door:
    """Follows the faces before one camera and says when to open. One object a camera; not for several threads.

    Args:
        policy: the rules.

    Example:
        >>> door = Door()
        >>> for frame in frames:                                                         # doctest: +SKIP
        ...     faces = pipeline.analyze(frame.image)
        ...     sightings = [Sighting(f.box, gallery.identify(f)) for f in faces]
        ...     for event in door.see(time.monotonic(), sightings):
        ...         if event.kind == "granted":
        ...             open_for(event.person)
    """

    def __init__(self, policy: DoorPolicy | None = None) -> None:
        self.policy = policy or DoorPolicy()
        self._faces: list[_Face] = []
        self._failures: deque[float] = deque()
        self._count = 0
        self._now = float("-inf")
        self._locked_until = float("-inf")
        self._granted_until = float("-inf")

    def see(self, now: float, sightings: Sequence[Sighting]) -> list[DoorEvent]:
        """Take in one frame, also one without faces, and return what follows from it.

        Args:
            now: the frame's time in seconds of a steady clock; never falling.
            sightings: all faces of the frame.

        Raises:
            ConfigError: time went backwards.
        """
        if not now >= self._now:
            raise ConfigError(f"a door's time must not go back, from {self._now} to {now}: use time.monotonic()")
        self._now = now
        events = self._leave(now)
        pairs = self._follow(now, sightings)
        events += self._leave(now)
        for face, sighting in pairs:
            events += self._judge(face, sighting.decision, now)
        return events

    def _leave(self, now: float) -> list[DoorEvent]:
        gone = [face for face in self._faces if self._has_left(face, now)]
        self._faces = [face for face in self._faces if not self._has_left(face, now)]
        failed = [face for face in gone if face.answered and face.person is None and not face.done]
        return [event for face in failed for event in self._fail(face, now)]

    def _has_left(self, face: _Face, now: float) -> bool:
        away = now - face.last_seen
        # Time alone would only measure how fast this machine is.
        looked = face.unseen >= 2 or away > self.policy.attempt_s
        return looked and away > self.policy.lost_after_s

    def _follow(self, now: float, sightings: Sequence[Sighting]) -> list[tuple[_Face, Sighting]]:
        """Give every sighting its face: the best overlaps first, what overlaps nothing is a new face."""
        for face in self._faces:
            face.unseen += 1
        free = list(self._faces)
        pairs: list[tuple[_Face, Sighting]] = []
        waiting = list(sightings)
        while free and waiting:
            overlap = box_iou(
                np.stack([face.box for face in free]).astype(np.float32),
                np.stack([sighting.box for sighting in waiting]).astype(np.float32),
            )
            row, column = np.unravel_index(int(overlap.argmax()), overlap.shape)
            if overlap[row, column] < self.policy.same_face_iou:
                break
            pairs.append((free.pop(int(row)), waiting.pop(int(column))))
        for sighting in waiting:
            self._count += 1
            face = _Face(self._count, sighting.box, now, now)
            self._faces.append(face)
            pairs.append((face, sighting))
        for face, sighting in pairs:
            face.box, face.last_seen, face.unseen = sighting.box, now, 0
        return pairs

    def _judge(self, face: _Face, decision: Decision, now: float) -> list[DoorEvent]:
        if face.done or now < self._locked_until or now < self._granted_until:
            face.agreeing.clear()
            face.since = max(face.since, now) if not face.done else face.since
            return []
        if decision.outcome != "try-again":
            face.answered = True
            if decision.person is None or decision.person != face.person:
                face.agreeing.clear()
            face.person = decision.person
            if decision.person is not None:
                face.agreeing.append(now)
        while face.agreeing and now - face.agreeing[0] > self.policy.agree_within_s:
            face.agreeing.popleft()
        agreed = len(face.agreeing) >= self.policy.agreeing_frames
        if decision.outcome == "match" and agreed and now - face.agreeing[0] >= self.policy.agree_over_s:
            face.done = True
            self._granted_until = now + self.policy.cool_down_s
            return [DoorEvent("granted", now, face.number, face.person)]
        if now - face.since >= self.policy.attempt_s:
            return self._fail(face, now)
        return []

    def _fail(self, face: _Face, now: float) -> list[DoorEvent]:
        face.done = True
        if now < self._locked_until:  # seen before the lock, gone during it
            return []
        events = [DoorEvent("failed", now, face.number)]
        self._failures.append(now)
        while now - self._failures[0] > self.policy.failure_window_s:
            self._failures.popleft()
        if len(self._failures) >= self.policy.failures:
            self._failures.clear()
            self._locked_until = now + self.policy.lock_s
            events.append(DoorEvent("locked", now, face.number))
        return events
