"""The detector: faces with five landmarks in photographs of any size.

A photograph is shown to the network in several views (fine, coarse, close-up: see ``facekd.detection.tiling``); what
they see is put back into the photograph's pixels and merged by non-maximum suppression. Then the refiner looks at each
face that is left and corrects it (``facekd.detection.refiner``); at last boxes inside a larger box of a better score
are dropped, which are parts of large faces. Equal input gives equal output.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from facekd.detection.anchors import anchors
from facekd.detection.codec import decode_boxes, decode_landmarks
from facekd.detection.nms import drop_nested, nms
from facekd.detection.refiner import Refiner, joint_score, lowest_first_score
from facekd.detection.tiling import COARSE_PX, View, plan_views, render, whole_view
from facekd.errors import ConfigError, ModelError
from facekd.images import ImageSource, load_image
from facekd.runtime import open_model
from facekd.zoo import ModelRecord, default_model

DEFAULT_SCORE_THRESHOLD = 0.5
"""Where a model has no calibration."""

_OUTPUTS = ("scores", "boxes", "landmarks")

# One run of the network takes at most this many pixels: its feature maps need about 100 bytes a pixel.
_RUN_PIXELS = 1280 * 1280

# Suppression compares all pairs; no photograph has more faces than this, but noise at a low threshold has more boxes.
_MOST_CANDIDATES = 5000

# A second look costs about a millisecond: at a low threshold, noise must not cost minutes. The densest photograph of
# WIDER FACE's validation set has 709 faces.
_MOST_LOOKS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face.

    Attributes:
        box: (4,) float32, ``x1, y1, x2, y2`` in pixels of the photograph; may reach beyond its edges.
        landmarks: (5, 2) float32: left eye, right eye, nose, left and right mouth corner, as seen in the picture.
        score: 0..1, higher is more surely a face.
    """

    box: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]
    score: float


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Boxes (N, 4), landmarks (N, 5, 2) in pixels of the photograph, and scores (N,): not yet suppressed."""

    boxes: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


class Detector:
    """Finds faces with a model of the zoo.

    Args:
        model: task, name, path or record of the model.
        score_threshold: detections below this score (0..1) are not reported; None takes the model's calibration. With
            a refiner it is one of both looks together, and lower values cost more second looks.
        nms_iou: of two boxes that overlap by more than this, the better one is kept.
        min_face_px: the smallest face that must be found, in pixels of the photograph; smaller ones may be. Larger
            values are faster.
        threads: processor threads; 0 is automatic.
        refiner: the model that looks again at each face, named as ``model`` is; "auto" takes the zoo's default
            refiner, if it has one; None leaves the second look out.

    Attributes:
        record: of the model.
        refiner: what looks again, or None.
        threads: as given, of both models.

    Raises:
        ConfigError: an argument is out of range, or there is no such detector or refiner.
        ModelError: the model is missing or damaged.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelRecord = "detector",
        score_threshold: float | None = None,
        nms_iou: float = 0.4,
        min_face_px: float = 20,
        threads: int = 0,
        refiner: str | os.PathLike[str] | ModelRecord | None = "auto",
    ) -> None:
        for name, value in (("score_threshold", score_threshold), ("nms_iou", nms_iou)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} must lie in 0..1, got {value}")
        if not min_face_px >= 1:
            raise ConfigError(f"min_face_px must be at least 1 pixel, got {min_face_px}")
        self.record, self._session = open_model(model, "detector", _OUTPUTS, threads)
        if score_threshold is None:
            calibration = self.record.calibration
            score_threshold = calibration.score_threshold if calibration else None
        self.score_threshold = DEFAULT_SCORE_THRESHOLD if score_threshold is None else score_threshold
        second = default_model("refiner") if refiner == "auto" else refiner
        self.refiner = None if second is None else Refiner(second, threads)
        self.threads = threads
        self.nms_iou = nms_iou
        self.min_face_px = min_face_px
        mean = self.record.preprocessing.mean
        in_rgb = mean if self.record.preprocessing.colour == "RGB" else mean[::-1]
        red, green, blue = (round(value) for value in in_rgb)
        self._fill = (red, green, blue)

    def detect(self, image: ImageSource) -> list[Detection]:
        """Faces of one photograph, by falling score.

        Args:
            image: what :func:`facekd.images.load_image` takes; an array is RGB uint8 (H, W, 3).

        Raises:
            ImageError: the picture cannot be used.
        """
        return self.detect_batch([image])[0]

    def detect_batch(
        self, images: Sequence[ImageSource], score_threshold: float | None = None
    ) -> list[list[Detection]]:
        """Faces of several photographs; those of equal size share runs of the network.

        Args:
            images: as for :meth:`detect`.
            score_threshold: in the place of the detector's own.

        Raises:
            ImageError: a picture cannot be used.
            ModelError: a model fails.
        """
        threshold = self.score_threshold if score_threshold is None else score_threshold
        pictures = [load_image(image) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(pictures):
            groups.setdefault(picture.shape, []).append(index)
        found: list[list[Detection]] = [[] for _ in pictures]
        for (height, width, _), members in groups.items():
            views = plan_views(width, height, self.min_face_px)
            candidates = self._look([pictures[i] for i in members], views, self._floor(threshold))
            for index, result in zip(members, candidates, strict=True):
                found[index] = _without_parts(self._refined(pictures[index], result, threshold))
        return found

    def detect_raw(self, image: ImageSource, score_threshold: float, resize: bool = False) -> list[Detection]:
        """Faces that one single look at the whole photograph finds, and the refiner's at each of them: for evaluation.

        Args:
            image: as for :meth:`detect`.
            score_threshold: 0..1; low for curves. With a refiner nothing that the first look gives less than 0.02 is
                found, whatever the threshold.
            resize: False takes the photograph at its own size, True shrinks a long side over 640 px to 640 px.

        Raises:
            ImageError: the picture cannot be used.
            ModelError: a model fails.
        """
        picture = load_image(image)
        view = whole_view(picture.shape[1], picture.shape[0], COARSE_PX if resize else None)
        candidates = self._look([picture], [view], self._floor(score_threshold))[0]
        return self._refined(picture, candidates, score_threshold)

    def _floor(self, threshold: float) -> float:
        """The detector's own score below which no face reaches the threshold, whatever the refiner says."""
        return threshold if self.refiner is None else lowest_first_score(threshold)

    def _refined(self, picture: npt.NDArray[np.uint8], candidates: _Candidates, threshold: float) -> list[Detection]:
        """Faces by falling score: suppressed, looked at again, and suppressed again, since boxes have moved."""
        faces = self._suppress(candidates)
        if self.refiner is None or not faces:
            return faces
        faces = faces[:_MOST_LOOKS]
        first = np.array([face.score for face in faces], np.float32)
        boxes = np.stack([face.box for face in faces])
        again = self.refiner.refine(picture, boxes, np.stack([face.landmarks for face in faces]))
        scores = joint_score(first, again.scores)
        # Two views of the same edges, with mistakes of their own: their mean is nearer than either.
        boxes = (boxes + again.boxes) * np.float32(0.5)
        sure = scores >= threshold
        faces = self._suppress(_Candidates(boxes[sure], again.landmarks[sure], scores[sure]))
        return self._with_finer_landmarks(picture, faces, self.refiner)

    def _with_finer_landmarks(
        self, picture: npt.NDArray[np.uint8], faces: list[Detection], refiner: Refiner
    ) -> list[Detection]:
        """Landmarks as the mean of two looks, the second in the frame that the first one corrected.

        Only for faces that are reported: on `val` this takes another thirtieth off the landmark error.
        """
        if not faces:
            return faces
        landmarks = np.stack([face.landmarks for face in faces])
        again = refiner.refine(picture, np.stack([face.box for face in faces]), landmarks)
        means = (landmarks + again.landmarks) * np.float32(0.5)
        return [replace(face, landmarks=points) for face, points in zip(faces, means, strict=True)]

    def _look(self, pictures: list[npt.NDArray[np.uint8]], views: list[View], threshold: float) -> list[_Candidates]:
        """What the network sees in all views of each picture; the pictures are of one size."""
        height, width = pictures[0].shape[:2]
        inputs = [(picture, v) for picture in range(len(pictures)) for v in range(len(views))]
        rendered = [render(picture, views, self._fill) for picture in pictures]
        by_size: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for picture, v in inputs:
            by_size.setdefault(views[v].input_size, []).append((picture, v))
        seen: dict[tuple[int, int], _Candidates] = {}
        for size, members in by_size.items():
            at_once = max(1, _RUN_PIXELS // (size[0] * size[1]))
            for start in range(0, len(members), at_once):
                chunk = members[start : start + at_once]
                outputs = self._run(np.stack([rendered[picture][v] for picture, v in chunk]))
                for row, (picture, v) in enumerate(chunk):
                    scores, boxes, landmarks = (output[row] for output in outputs)
                    seen[picture, v] = _pick(scores, boxes, landmarks, views[v], (width, height), threshold)
        return [_join([seen[picture, v] for v in range(len(views))]) for picture in range(len(pictures))]

    def _run(self, batch: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], ...]:
        feeds = {self._session.inputs[0]: self.record.preprocessing.apply(batch)}
        by_name = dict(zip(self._session.outputs, self._session.run(feeds), strict=True))
        outputs = tuple(by_name[name] for name in _OUTPUTS)
        count = len(anchors(*batch.shape[1:3]))
        wanted = ((len(batch), count), (len(batch), count, 4), (len(batch), count, 10))
        if tuple(output.shape for output in outputs) != wanted:
            got = {name: by_name[name].shape for name in _OUTPUTS}
            raise ModelError(
                f"the detector {self.record.name!r} gives {got} for an input of {batch.shape[1:3]}, "
                f"but its anchors ask for {wanted}: it was exported for other anchors; export it again"
            )
        return outputs

    def _suppress(self, candidates: _Candidates) -> list[Detection]:
        order = np.argsort(-candidates.scores, kind="stable")[:_MOST_CANDIDATES]
        kept = order[nms(candidates.boxes[order], candidates.scores[order], self.nms_iou)]
        return [
            Detection(candidates.boxes[i].copy(), candidates.landmarks[i].copy(), float(candidates.scores[i]))
            for i in kept
        ]


def _pick(
    scores: npt.NDArray[np.float32],
    boxes: npt.NDArray[np.float32],
    landmarks: npt.NDArray[np.float32],
    view: View,
    photograph: tuple[int, int],
    threshold: float,
) -> _Candidates:
    """The anchors of one view (A,), (A, 4), (A, 10) above the threshold, decoded, in pixels of the photograph."""
    chosen = np.flatnonzero(scores >= threshold)
    here = anchors(*view.input_size)[chosen]
    corners = decode_boxes(boxes[chosen], here)
    points = decode_landmarks(landmarks[chosen], here)
    good = np.isfinite(corners).all(axis=1) & np.isfinite(points).all(axis=(1, 2)) & view.is_trusted(corners)
    return _Candidates(
        view.to_photograph(corners[good].reshape(-1, 2, 2), *photograph).reshape(-1, 4),
        view.to_photograph(points[good], *photograph),
        scores[chosen][good],
    )


def _without_parts(faces: list[Detection]) -> list[Detection]:
    """Without boxes inside a larger box of a better score: an eye or a mouth taken for a face."""
    boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    return [faces[i] for i in drop_nested(boxes, [face.score for face in faces])]


def _join(parts: list[_Candidates]) -> _Candidates:
    return _Candidates(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.landmarks for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )
