"""The second look: each face that the detector found is cut out upright and enlarged, and a small network corrects it.

The detector decides about thousands of places at once, at a stride of 8 pixels and more, so its landmarks are coarse:
about an eighth of the distance of the eyes. The refiner sees one face at a time in a frame that is laid by those
landmarks, and says where landmarks and box really are, and anew whether this is a face. The idea is as old as cascades
of networks (Zhang et al. 2016, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks",
https://arxiv.org/abs/1604.02878); the frame is new, so that turned heads cost the network nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facekd.errors import ModelError
from facekd.geometry import apply_affine, estimate_similarity, invert_affine
from facekd.runtime import open_model
from facekd.warp import ARCFACE_TEMPLATE, warp_square
from facekd.zoo import ModelRecord

SIDE_PX = 64
"""Side of the square that the network sees."""

EYES_PX = 16.0
"""Distance of the eyes in it, and the unit of the network's answers."""

_SCALE = EYES_PX / float(np.linalg.norm(ARCFACE_TEMPLATE[1] - ARCFACE_TEMPLATE[0]))
TEMPLATE: npt.NDArray[np.float64] = (ARCFACE_TEMPLATE - ARCFACE_TEMPLATE.mean(axis=0)) * _SCALE + np.array(
    [SIDE_PX / 2, SIDE_PX / 2 + 1]  # the brow is nearer to the landmarks' middle than the chin
)
"""Where the square has left eye, right eye, nose and mouth corners if the detector was right: ArcFace's proportions."""
TEMPLATE.flags.writeable = False

BOX_SIDE_EYES = 2.6
"""Side of an ordinary face's box (square root of its area) in distances of its eyes, as labels have it."""

MOST_OFF = 3.0
"""Landmarks whose frame is so many times larger or smaller than their box says are not believed: the box lays it."""

OUTPUTS = ("points", "boxes", "scores")

SUREST = 0.98
"""The refiner's score counts for no more than this, and for no less than one minus this: so a low score of the detector
can be given up at once, without a second look that could not save it."""

LEAST_FIRST_SCORE = 0.02
"""What the detector gives less than this gets no second look. Curves begin there, too (`evaluate.LOWEST_SCORE`)."""

_RUN_FACES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """Corrected faces.

    Attributes:
        boxes: (N, 4) float32, ``x1, y1, x2, y2`` in pixels of the photograph.
        landmarks: (N, 5, 2) float32, likewise.
        scores: (N,) float32 in 0..1: how surely the square shows a face.
    """

    boxes: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


class Refiner:
    """Corrects faces with a model of the zoo.

    Args:
        model: task, name, path or record of the model.
        threads: processor threads; 0 is automatic.

    Raises:
        ConfigError: there is no such model.
        ModelError: the model is missing or damaged.
    """

    def __init__(self, model: str | os.PathLike[str] | ModelRecord = "refiner", threads: int = 0) -> None:
        self.record, self._session = open_model(model, "refiner", OUTPUTS, threads)

    def refine(
        self, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.floating], landmarks: npt.NDArray[np.floating]
    ) -> Refined:
        """Look again at the faces of one photograph.

        Args:
            image: RGB uint8 (H, W, 3).
            boxes: (N, 4) ``x1, y1, x2, y2`` in pixels of ``image``, as the detector found them.
            landmarks: (N, 5, 2) likewise. Where they do not fit their box (all in one spot, mirrored, far too large),
                the box lays the frame. All finite.

        Raises:
            ModelError: the model fails, or its answers have other shapes or are not finite.
        """
        frames = [frame_of(box, points) for box, points in zip(boxes, landmarks, strict=True)]
        answers = [
            self._look(np.stack([warp_square(image, frame, SIDE_PX) for frame in frames[start : start + _RUN_FACES]]))
            for start in range(0, len(frames), _RUN_FACES)
        ]
        points, corners, scores = (
            np.concatenate([np.empty(shape, np.float32), *(answer[i] for answer in answers)])
            for i, shape in enumerate(((0, 10), (0, 4), (0,)))
        )
        back = [invert_affine(frame) for frame in frames]
        refined_boxes = [decode_box(codes, matrix) for codes, matrix in zip(corners, back, strict=True)]
        refined_points = [apply_affine(m, decode_points(codes)) for codes, m in zip(points, back, strict=True)]
        return Refined(
            np.array(refined_boxes, np.float32).reshape(-1, 4),
            np.array(refined_points, np.float32).reshape(-1, 5, 2),
            scores,
        )

    def _look(self, squares: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], ...]:
        feeds = {self._session.inputs[0]: self.record.preprocessing.apply(squares)}
        by_name = dict(zip(self._session.outputs, self._session.run(feeds), strict=True))
        outputs = tuple(by_name[name] for name in OUTPUTS)
        wanted = ((len(squares), 10), (len(squares), 4), (len(squares),))
        if tuple(output.shape for output in outputs) != wanted:
            got = {name: by_name[name].shape for name in OUTPUTS}
            raise ModelError(f"the refiner {self.record.name!r} gives {got} for {len(squares)} faces; export it again")
        if not all(np.isfinite(output).all() for output in outputs):
            raise ModelError(f"the refiner {self.record.name!r} gives numbers that are not finite; replace the model")
        return outputs


def joint_score(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Scores of detector and refiner, both (N,) in 0..1, as one: the mean of their logits, as a score again.

    On `val` of the project's photographs this found more at every rate of false alarms than the product, than either
    alone, and than other weights of the two.
    """
    second = np.clip(second, 1 - SUREST, SUREST)
    first = np.clip(first, 1e-6, 1 - 1e-6)
    odds = np.sqrt(first / (1 - first) * second / (1 - second))
    return np.asarray(odds / (1 + odds), np.float32)


def lowest_first_score(threshold: float) -> float:
    """The detector's score below which no joint score reaches ``threshold``: nothing below it need be looked at.

    At least `LEAST_FIRST_SCORE`, whatever the threshold. At a threshold of 1 nothing is left: no joint score is 1.
    """
    if threshold >= 1:
        return 1.0
    odds = (threshold / (1 - threshold)) ** 2 * (1 - SUREST) / SUREST
    return max(odds / (1 + odds), LEAST_FIRST_SCORE)


def square_frame(landmarks: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The similarity (2, 3) from pixels of the photograph to the square, for five landmarks (5, 2).

    Raises:
        ValueError: the landmarks are not five finite points that determine a similarity.
    """
    return estimate_similarity(landmarks, TEMPLATE)


def frame_of(box: npt.NDArray[np.floating], landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The frame (2, 3) of a face: by its five landmarks (5, 2), or by its box (4,) where they do not fit it."""
    sides = np.maximum(box[2:].astype(np.float64) - box[:2], 1.0)
    eyes = float(np.sqrt(sides.prod())) / BOX_SIDE_EYES  # that the box lets expect
    try:
        frame = square_frame(landmarks)
    except ValueError:
        pass
    else:
        off = EYES_PX / float(np.hypot(frame[0, 0], frame[1, 0])) / eyes
        inside = np.abs(np.mean(landmarks, axis=0) - (box[:2] + box[2:]) / 2) <= sides
        if 1 / MOST_OFF <= off <= MOST_OFF and inside.all():
            return frame
    scale = EYES_PX / eyes
    shift = SIDE_PX / 2 - scale * (box[:2].astype(np.float64) + box[2:]) / 2
    return np.column_stack([scale * np.eye(2), shift])


def encode_points(points: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Codes (10,) of five points (5, 2) in pixels of the square: their way from the template, in eye distances."""
    return ((points - TEMPLATE) / EYES_PX).astype(np.float32).reshape(10)


def decode_points(codes: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The inverse of :func:`encode_points`."""
    return np.asarray(TEMPLATE + codes.reshape(5, 2) * EYES_PX, np.float64)


def encode_box(box: npt.NDArray[np.floating], frame: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Codes (4,) of a box in pixels of the photograph: its centre in the square, and the logarithms of its sides.

    The box's sides stay parallel to the photograph's, only their lengths are taken into the square: a turned head has
    an upright box. How far it is turned the network cannot see; where that decides between width and height, the box of
    the first look knows better, with which the mean is taken.
    """
    scale = np.hypot(frame[0, 0], frame[1, 0])
    centre = apply_affine(frame, (box[:2] + box[2:]) / 2)
    sides = np.maximum(box[2:] - box[:2], 1e-3) * scale
    return np.concatenate([(centre - SIDE_PX / 2) / EYES_PX, np.log(sides / (SIDE_PX / 2))]).astype(np.float32)


def decode_box(codes: npt.NDArray[np.floating], back: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse of :func:`encode_box`, from the matrix that takes the square back into the photograph.

    Sides are at most e^4 times half the square: a damaged network must not produce infinities.
    """
    scale = np.hypot(back[0, 0], back[1, 0])
    centre = apply_affine(back, codes[:2] * EYES_PX + SIDE_PX / 2)
    half = np.exp(np.clip(codes[2:], -4.0, 4.0)) * (SIDE_PX / 4) * scale
    return np.concatenate([centre - half, centre + half])
