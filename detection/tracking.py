"""Faces in a video: the detector looks at key frames, optical flow follows in between, and everybody keeps an id.

The detector looks at every ``every``-th frame, and at once when a followed face is lost, when its following is
doubtful (it no longer looks as it did, or two faces lie on one another), or when the scene changes. What it finds is
given to the known faces by the overlap of their boxes, the best sum of overlaps first (the Hungarian algorithm, as in
SORT, Bewley et al., ICIP 2016): to faces whose place is known first, then to those that are missing, where they would
be had they moved on as before. What is left over is somebody new. Ids count from 1 and are never given twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from facekd.detection.flow import GreyFrame, Motion, follow_faces, likeness, patch_place
from facekd.errors import ConfigError
from facekd.geometry import box_area, box_iou, compose_affine
from facekd.images import load_image

LEAST_LIKENESS = 0.85
"""Correlation with how the face looked when the detector last saw it, below which following it is doubtful."""
CUT_DIFFERENCE = 25.0
"""Grey levels by which the thumbnails of two frames differ where the scene changed, if no face can be followed. Of 60
photographs each differs from the next by 34 and more; panned by one part in 35 of the width, half of them by 19."""
ONE_PLACE = 0.3
"""Share of the smaller of two boxes that lies in the other, from which the flow of one may end on the other's face."""
_KEEP_FRAMES = 15
_PACE_FRAMES = 5  # over about so many frames the pace of a face is taken: from one to the next, boxes tremble


class HasBox(Protocol):
    """Something that lies somewhere in a frame."""

    @property
    def box(self) -> npt.NDArray[np.float32]:
        """(4,) ``x1, y1, x2, y2`` in pixels."""


class FaceLike(HasBox, Protocol):
    """What the tracker asks of a face: :class:`facekd.detection.detector.Detection` and everything that has as much."""

    @property
    def landmarks(self) -> npt.NDArray[np.float32]:
        """(5, 2) in pixels."""

    @property
    def score(self) -> float:
        """0..1, higher is more surely a face."""


F = TypeVar("F", bound=FaceLike)
F_co = TypeVar("F_co", bound=FaceLike, covariant=True)


class Looks(Protocol[F_co]):
    """What finds faces on key frames: a :class:`facekd.detection.detector.Detector`, for one."""

    def detect(self, image: npt.NDArray[np.uint8], /) -> Sequence[F_co]:
        """Faces of one frame, RGB uint8 (H, W, 3)."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFace(Generic[F]):
    """One face of one frame.

    Attributes:
        id: of this face in all frames of the video; counts from 1.
        box: (4,) float32, ``x1, y1, x2, y2`` in pixels of the frame; may reach beyond its edges.
        landmarks: (5, 2) float32: left eye, right eye, nose, left and right mouth corner, as seen in the picture.
        score: the detector's when it last saw the face, 0..1.
        detected: True where the detector saw the face in this frame; False where it was followed here.
        last_seen: the face as the detector last saw it, in this frame or in an earlier one.
    """

    id: int
    box: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]
    score: float
    detected: bool
    last_seen: F


@dataclass(frozen=True, slots=True)
class TrackedFrame(Generic[F]):
    """What there is in one frame.

    Attributes:
        faces: by falling score, equal scores by rising id.
        looked: whether the detector looked at this frame.
    """

    faces: tuple[TrackedFace[F], ...]
    looked: bool


class _Track(Generic[F]):
    """One face over time. Its place in the newest frame is known (``found``), or a guess that nobody is told."""

    def __init__(self, identifier: int, face: F, frame: int, now: GreyFrame, block: int) -> None:
        self.id = identifier
        self.looks = 0  # how often the detector saw it
        self.pace: npt.NDArray[np.floating] = np.zeros(2)  # pixels a frame, by what the detector saw
        self.last_seen, self.seen_at = face, frame
        self.see(face, frame, now, block)

    def see(self, face: F, frame: int, now: GreyFrame, block: int) -> None:
        """The detector found it."""
        frames = max(1, frame - self.seen_at)
        step = (_centre(face) - _centre(self.last_seen)) / frames
        self.pace = self.pace + (1.0 if self.looks == 1 else min(1.0, frames / _PACE_FRAMES)) * (step - self.pace)
        self.last_seen, self.seen_at = face, frame
        self.box = np.array(face.box, np.float32)
        self.landmarks = np.array(face.landmarks, np.float32)
        self._place = patch_place(self.box)
        self._patch = now.patch(self._place, block)
        self.found, self.missed = True, 0  # missed: looks in a row
        self.looks += 1

    def miss(self, found: bool) -> None:
        """The detector looked and did not find it; ``found``: it can be followed all the same."""
        self.found = found
        self.missed += 1

    def follow(self, motion: Motion, now: GreyFrame, block: int) -> None:
        """Move with the flow; afterwards it is found if it still looks as it did."""
        self.box, self.landmarks = motion.move_box(self.box), motion.move_points(self.landmarks)
        self._place = compose_affine(motion.matrix, self._place)
        self.found = likeness(self._patch, now.patch(self._place, block)) >= LEAST_LIKENESS

    def guess(self, frame: int) -> None:
        """Where it would be, had it gone on as between the detector's last two sightings: flow ends on who hides it."""
        self.found = False
        shift = self.pace * (frame - self.seen_at)
        self.box = (self.last_seen.box + np.tile(shift, 2)).astype(np.float32)
        self.landmarks = (self.last_seen.landmarks + shift).astype(np.float32)


def _centre(face: HasBox) -> npt.NDArray[np.floating]:
    return (face.box[:2] + face.box[2:]) / 2


class FaceTracker(Generic[F]):
    """Follows the faces of one video; frames go in one after the other. One object a video; not for several threads.

    Args:
        detector: what looks at key frames.
        every: frames from one look to the next, when nothing calls for one earlier. 1 looks at every frame, and reports
            what the detector finds there and nothing else.
        bridged: looks in a row that may miss a face that can still be followed: so long it is reported all the same
            (profiles, blurred frames). Not where the detector has seen it only once (false alarms), nor with every = 1.
        keep_frames: a face that the detector has not seen for more frames than this has left; coming back it is
            somebody new. None: three key frames, and at least 15 frames.
        same_face_iou: least overlap by which a detection is a face that is known, 0..1.

    Raises:
        ConfigError: an argument is out of range.

    Example:
        >>> tracker = FaceTracker(Detector(), every=5)                                   # doctest: +SKIP
        >>> for frame in video:                                                          # doctest: +SKIP
        ...     print([(face.id, face.box) for face in tracker.track(frame.image).faces])
    """

    def __init__(
        self,
        detector: Looks[F],
        every: int = 5,
        bridged: int = 2,
        keep_frames: int | None = None,
        same_face_iou: float = 0.3,
    ) -> None:
        if not callable(getattr(detector, "detect", None)):
            raise ConfigError(
                f"a tracker asks a detector, got {detector!r}: hand in a Detector, such as pipeline.detector"
            )
        for name, value, least in (("every", every, 1), ("bridged", bridged, 0), ("keep_frames", keep_frames, 0)):
            if value is not None and not (isinstance(value, (int, np.integer)) and value >= least):
                raise ConfigError(f"{name} of a tracker must be a whole number from {least}, got {value!r}")
        if not (isinstance(same_face_iou, (int, float)) and 0 < same_face_iou < 1):
            raise ConfigError(f"same_face_iou must lie between 0 and 1, got {same_face_iou!r}")
        self.detector = detector
        self.every = every
        self.bridged = bridged if every > 1 else 0
        self.keep_frames = max(_KEEP_FRAMES, 3 * every) if keep_frames is None else keep_frames
        self.same_face_iou = same_face_iou
        self._tracks: list[_Track[F]] = []
        self._before: GreyFrame | None = None
        self._frame = 0
        self._next_look = 0
        self._last_id = 0

    def track(self, image: npt.NDArray[np.uint8]) -> TrackedFrame[F]:
        """Take in the next frame.

        Args:
            image: RGB uint8 (H, W, 3). Another size than before is another scene.

        Raises:
            ImageError: the picture cannot be used.
        """
        picture = load_image(image)
        now = GreyFrame(picture)
        looks = self._follow(now) or self._frame >= self._next_look
        if looks:
            self._look(picture, now)
            self._next_look = self._frame + self.every
        faces = [
            TrackedFace(
                track.id,
                track.box.copy(),
                track.landmarks.copy(),
                float(track.last_seen.score),
                track.seen_at == self._frame,
                track.last_seen,
            )
            for track in sorted(self._reported(), key=lambda track: (-track.last_seen.score, track.id))
        ]
        self._before = now
        self._frame += 1
        return TrackedFrame(tuple(faces), looks)

    def _reported(self) -> list[_Track[F]]:
        return [
            track
            for track in self._tracks
            if track.found and (track.missed == 0 or (track.missed <= self.bridged and track.looks > 1))
        ]

    def _follow(self, now: GreyFrame) -> bool:
        """Move all faces on to the new frame; True if the detector must look, whether or not its turn has come."""
        before = self._before
        if before is None:
            return True
        if before.size != now.size:
            self._tracks.clear()
            return True
        reported = len(self._reported())
        followed = [track for track in self._tracks if track.found]
        boxes = _boxes(followed)
        landmarks = np.array([track.landmarks for track in followed], np.float32).reshape(-1, 5, 2)
        block = before.block_for(boxes)
        for track, motion in zip(followed, follow_faces(before, now, boxes, landmarks), strict=True):
            if motion is None:
                track.found = False
            else:
                track.follow(motion, now, block)
        for track in self._tracks:
            if not track.found:
                track.guess(self._frame)
        if not any(track.found for track in followed) and now.difference(before) > CUT_DIFFERENCE:
            self._tracks.clear()
            return True
        remaining = _boxes(self._reported())
        one_place = np.triu(_share_of_smaller(remaining, remaining), 1) > ONE_PLACE
        return len(remaining) < reported or bool(one_place.any())

    def _look(self, picture: npt.NDArray[np.uint8], now: GreyFrame) -> None:
        """Let the detector look, and give each face that it finds to the track that it belongs to, or to a new one."""
        faces = list(self.detector.detect(picture))
        boxes = _boxes(faces)
        block = now.block_for(boxes)
        unclaimed = list(range(len(faces)))
        where_known = [track for track in self._tracks if track.found]
        where_guessed = [track for track in self._tracks if not track.found]
        for tracks in (where_known, where_guessed):
            for track, index in self._assign(tracks, boxes, unclaimed):
                track.see(faces[index], self._frame, now, block)
                unclaimed.remove(index)
        for track in self._tracks:
            if track.seen_at < self._frame:
                # Seen only once, it may have been a false alarm; on a face that is another's, the flow went astray.
                astray = bool((_share_of_smaller(track.box[None], boxes) > ONE_PLACE).any())
                track.miss(found=track.found and track.looks > 1 and not astray)
        self._tracks = [track for track in self._tracks if self._frame - track.seen_at <= self.keep_frames]
        for index in unclaimed:
            self._last_id += 1
            self._tracks.append(_Track(self._last_id, faces[index], self._frame, now, block))

    def _assign(
        self, tracks: list[_Track[F]], boxes: npt.NDArray[np.float32], unclaimed: list[int]
    ) -> list[tuple[_Track[F], int]]:
        """Pairs of a track and the index of its detection, of the largest sum of overlaps."""
        overlaps = box_iou(_boxes(tracks), boxes[unclaimed])
        overlaps[overlaps < self.same_face_iou] = 0
        pairs = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
        return [(tracks[row], unclaimed[column]) for row, column in pairs if overlaps[row, column] > 0]


def _boxes(faces: Sequence[HasBox]) -> npt.NDArray[np.float32]:
    return np.array([face.box for face in faces], np.float32).reshape(-1, 4)


def _share_of_smaller(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
    """For every pair of boxes (N, 4) and (M, 4) the share of the smaller one that lies in the other: (N, M), 0..1."""
    overlap = box_iou(a, b)
    # iou = shared / (a + b - shared), so shared = iou (a + b) / (1 + iou).
    areas_a, areas_b = box_area(a)[:, None], box_area(b)[None, :]
    shared = overlap * (areas_a + areas_b) / (1 + overlap)
    return shared / np.maximum(np.minimum(areas_a, areas_b), 1e-9)
