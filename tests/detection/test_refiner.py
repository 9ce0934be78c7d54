"""The second look: frames, codes, scores; and how the detector uses it.

The network here is a made one whose answers are known: it shifts every point, states a box, and calls a face what is
redder than green.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.detection.detector import Detector
from facekd.detection.evaluate import AllViews
from facekd.detection.refiner import (
    EYES_PX,
    LEAST_FIRST_SCORE,
    SIDE_PX,
    SUREST,
    TEMPLATE,
    Refiner,
    decode_box,
    decode_points,
    encode_box,
    encode_points,
    frame_of,
    joint_score,
    lowest_first_score,
    square_frame,
)
from facekd.errors import ConfigError, ModelError
from facekd.geometry import apply_affine, box_iou, invert_affine
from facekd.recognition.align import TEMPLATE as ARCFACE
from facekd.zoo import ModelCard, Preprocessing, find_model
from facekd.zoo.writing import add_model, write_record
from tests.detection.made_landmarks import landmarks_at

SHIFT = np.array([0.25, -0.5], np.float32)  # eye distances: what the made network says of every point
SIDES = np.log(np.array([1.0, 1.25], np.float32))  # and of the box: 32 x 40 px of the square
BOX = np.concatenate([np.zeros(2, np.float32), SIDES])
PREPROCESSING = Preprocessing(mean=(0, 0, 0), scale=(1, 1, 1), width=SIDE_PX, height=SIDE_PX, template="face-64")


def made_refiner(folder: Path, points: int = 10, box: np.ndarray = BOX) -> Path:
    """An ONNX file with its record: scores are the sigmoid of (mean of red less green - 45) / 10."""
    from onnx import TensorProto, checker, helper, numpy_helper

    constants = {
        "flat": np.array([0, -1], np.int64),
        "last": np.array([1], np.int64),
        "redness": np.array([[1], [-1], [0]], np.float32),
        "least": np.array(45, np.float32),
        "ten": np.array(10, np.float32),
        "nothing": np.zeros((3, points), np.float32),
        "shift": np.resize(SHIFT, points).astype(np.float32),
        "no_box": np.zeros((3, 4), np.float32),
        "box": box,
    }
    nodes = [
        helper.make_node("GlobalAveragePool", ["squares"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "flat"], ["colours"]),
        helper.make_node("MatMul", ["colours", "redness"], ["red"]),
        helper.make_node("Squeeze", ["red", "last"], ["mean"]),
        helper.make_node("Sub", ["mean", "least"], ["above"]),
        helper.make_node("Div", ["above", "ten"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("MatMul", ["colours", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "shift"], ["points"]),
        helper.make_node("MatMul", ["colours", "no_box"], ["box_zeros"]),
        helper.make_node("Add", ["box_zeros", "box"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("squares", TensorProto.FLOAT, ["n", 3, SIDE_PX, SIDE_PX])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("points", ["n", points]), ("boxes", ["n", 4]), ("scores", ["n"]))
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    path = folder / "made.onnx"
    path.write_bytes(model.SerializeToString())
    write_record(path, "refiner", PREPROCESSING, ModelCard())
    return path


@pytest.fixture
def made(tmp_path: Path) -> Path:
    pytest.importorskip("onnx", reason="building the made network needs the package onnx (extra: train)")
    return made_refiner(tmp_path)


def bright(value: int, height: int = 300, width: int = 400) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def boxes_of(faces: np.ndarray) -> np.ndarray:
    """Boxes of ordinary size round faces (N, 5, 2)."""
    eyes = np.linalg.norm(faces[:, 1] - faces[:, 0], axis=1, keepdims=True)
    return np.concatenate([boxes_centre(faces) - 1.3 * eyes, boxes_centre(faces) + 1.3 * eyes], axis=1).astype(
        np.float32
    )


def boxes_centre(faces: np.ndarray) -> np.ndarray:
    """Where the square's middle lies in the photograph, for upright faces."""
    eyes = np.linalg.norm(faces[:, 1] - faces[:, 0], axis=1, keepdims=True)
    return faces.mean(axis=1) - (TEMPLATE.mean(0) - SIDE_PX / 2) * eyes / EYES_PX


def test_template_has_arcface_proportions() -> None:
    eyes = np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])
    assert eyes == pytest.approx(EYES_PX, rel=1e-3)
    scale = eyes / np.linalg.norm(ARCFACE[1] - ARCFACE[0])
    np.testing.assert_allclose(TEMPLATE - TEMPLATE.mean(0), (ARCFACE - ARCFACE.mean(0)) * scale, atol=0.02)


@given(
    st.floats(-1000, 1000),
    st.floats(-1000, 1000),
    st.floats(2, 400),
    st.floats(-3, 3),
    st.floats(5, 900),
    st.floats(5, 900),
)
def test_codes_are_undone(x: float, y: float, eyes: float, turn: float, width: float, height: float) -> None:
    truth = landmarks_at(x, y, eyes, turn)
    frame = square_frame(truth)
    np.testing.assert_allclose(apply_affine(frame, truth), TEMPLATE, atol=0.01)
    points = apply_affine(frame, truth + eyes / 5)
    np.testing.assert_allclose(decode_points(encode_points(points)), points, atol=1e-3)
    box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    back = decode_box(encode_box(box, frame), invert_affine(frame))
    bounded = np.exp(4) * (SIDE_PX / 2) * eyes / EYES_PX  # sides beyond this are cut: no face is so large in its frame
    if max(width, height) < bounded and min(width, height) > np.exp(-4) * (SIDE_PX / 2) * eyes / EYES_PX:
        np.testing.assert_allclose(back, box, atol=1e-3 * max(width, height, eyes) + 1e-2)


@pytest.mark.parametrize("turn", [0.0, 0.6, -1.4])
def test_answers_come_back_into_the_photograph(made: Path, turn: float) -> None:
    truth = landmarks_at(200, 150, 40, turn)
    refined = Refiner(made).refine(bright(200), np.array([[150, 90, 250, 210]], np.float32), truth[None])
    # A shift by so many eye distances along the face's own axes.
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    np.testing.assert_allclose(refined.landmarks[0], truth + axes @ SHIFT * 40, atol=0.05)
    centre = landmarks_at(200, 150, 40, turn).mean(0) - axes @ (TEMPLATE.mean(0) - SIDE_PX / 2) * 40 / EYES_PX
    half = np.exp(SIDES) * SIDE_PX / 4 * 40 / EYES_PX
    np.testing.assert_allclose(refined.boxes[0], [*(centre - half), *(centre + half)], atol=0.1)
    assert refined.scores[0] == pytest.approx(1 / (1 + np.exp(4.5)), abs=1e-4)  # grey is no face
    assert refined.landmarks.dtype == refined.boxes.dtype == np.float32


def test_nobody_and_a_crowd(made: Path) -> None:
    refiner = Refiner(made)
    nobody = refiner.refine(bright(10), np.empty((0, 4), np.float32), np.empty((0, 5, 2), np.float32))
    assert nobody.boxes.shape == (0, 4)
    assert nobody.landmarks.shape == (0, 5, 2)
    assert nobody.scores.shape == (0,)
    # A hundred, more than one run takes, on two stripes: which one a square shows, its score must say.
    photograph = bright(90, 600, 1200)
    photograph[300:, :, 0] = 250
    crowd = np.stack([landmarks_at(40 + 11 * i, 450 if i % 3 else 150, 10) for i in range(100)])
    refined = refiner.refine(photograph, boxes_of(crowd), crowd)
    np.testing.assert_allclose(refined.landmarks, crowd + SHIFT * 10, atol=0.05)
    np.testing.assert_allclose(refined.boxes[:, :2] + refined.boxes[:, 2:], 2 * boxes_centre(crowd), atol=0.1)
    assert ((refined.scores > 0.5) == (np.arange(100) % 3 > 0)).all()


def test_a_face_at_the_edge_is_cut_out_with_black(made: Path) -> None:
    points = landmarks_at(0, 0, 30)
    refined = Refiner(made).refine(bright(200), boxes_of(points[None]), points[None])
    np.testing.assert_allclose(refined.landmarks[0], points + SHIFT * 30, atol=0.05)


def test_landmarks_in_one_spot_are_laid_by_the_box(made: Path) -> None:
    box = np.array([100, 50, 204, 154], np.float32)  # 104 px: a face whose eyes are 40 px apart
    refined = Refiner(made).refine(bright(200), box[None], np.full((1, 5, 2), 7.0, np.float32))
    np.testing.assert_allclose(refined.landmarks[0], landmarks_at(152, 102, 40) + SHIFT * 40, atol=0.1)


@pytest.mark.parametrize("wrong", ["mirrored", "one point far away", "elsewhere"])
def test_landmarks_that_do_not_fit_their_box_lay_no_frame(made: Path, wrong: str) -> None:
    points = landmarks_at(152, 102, 40)
    box = np.array([100, 50, 204, 154], np.float32)
    if wrong == "mirrored":
        points = points[[1, 0, 2, 4, 3]]
    elif wrong == "one point far away":
        points[2] = [9e5, -9e5]
    else:
        points = points + np.float32(300)
    refined = Refiner(made).refine(bright(200), box[None], points[None])
    np.testing.assert_allclose(refined.landmarks[0], landmarks_at(152, 102, 40) + SHIFT * 40, atol=0.1)


@pytest.mark.parametrize("turn", [0.0, 1.5, 3.1])
def test_landmarks_that_fit_lay_the_frame_however_turned(turn: float) -> None:
    points = landmarks_at(152, 102, 40, turn)
    np.testing.assert_array_equal(frame_of(boxes_of(points[None])[0], points), square_frame(points))


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    refiner = Refiner(made_refiner(tmp_path, box=np.array([0, np.nan, 0, 0], np.float32)))
    with pytest.raises(ModelError, match="not finite"):
        refiner.refine(bright(50), np.zeros((1, 4), np.float32), landmarks_at(50, 50, 10)[None])


def test_wrong_answers_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    refiner = Refiner(made_refiner(tmp_path, points=8))
    with pytest.raises(ModelError, match="export it again"):
        refiner.refine(bright(50), np.zeros((1, 4), np.float32), landmarks_at(50, 50, 10)[None])


def test_joint_score_is_the_mean_of_logits() -> None:
    first, second = np.array([0.5, 0.9, 0.2, 1.0, 0.7]), np.array([0.9, 0.9, 0.6, 0.5, 1.0])

    def logit(p: np.ndarray) -> np.ndarray:
        return np.log(p / (1 - p))

    mean = (logit(np.clip(first, 1e-6, 1 - 1e-6)) + logit(np.clip(second, 1 - SUREST, SUREST))) / 2
    np.testing.assert_allclose(joint_score(first, second), 1 / (1 + np.exp(-mean)), rtol=1e-5)


@given(st.floats(0.01, 0.999))
def test_nothing_below_the_lowest_score_can_reach_the_threshold(threshold: float) -> None:
    least = lowest_first_score(threshold)
    below = np.array([least * 0.999])
    if least > LEAST_FIRST_SCORE:  # the floor itself is a choice
        assert joint_score(below, np.ones(1))[0] < threshold
        assert joint_score(np.array([least * 1.001]), np.ones(1))[0] >= threshold * 0.999


def test_threshold_of_one_looks_at_nothing() -> None:
    assert lowest_first_score(1.0) == 1.0


@pytest.fixture
def refining_zoo(fake_zoo: Path, tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake zoo and the made refiner in it."""
    folder = tmp_path / "zoo"
    shutil.copytree(fake_zoo, folder)
    add_model(folder, find_model(made), "made")
    monkeypatch.setenv("FACEKD_ZOO", str(folder))
    return folder


def half_sure(detector: Detector) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """The detector's run with all scores brought into 0.35..0.4."""
    run = detector._run

    def doubtful(batch: np.ndarray) -> tuple[np.ndarray, ...]:
        scores, boxes, landmarks = run(batch)
        return np.clip(scores, 0.35, 0.4), boxes, landmarks

    return doubtful


def painted(paint_face, level: int) -> np.ndarray:
    image = bright(level, 320, 480)
    paint_face(image, 180, 100, 96)
    return image


def test_detector_takes_the_second_looks_answers(refining_zoo: Path, paint_face) -> None:
    image = painted(paint_face, 128)
    (plain,) = Detector(refiner=None, threads=1).detect(image)
    face = Detector(threads=1).detect(image)[0]  # the surest; neighbours of it may be lifted, too
    eyes = np.linalg.norm(square_frame(plain.landmarks)[:, 0]) ** -1 * EYES_PX
    # One look shifts by so much; the next, in the frame that it laid, once more; the mean is between the two.
    np.testing.assert_allclose(face.landmarks, plain.landmarks + 1.5 * SHIFT * eyes, atol=0.5)
    refined = Refiner().refine(image, plain.box[None], plain.landmarks[None])
    np.testing.assert_allclose(face.box, (plain.box + refined.boxes[0]) / 2, atol=0.01)  # the mean of both looks
    assert face.score == pytest.approx(joint_score(np.array([plain.score]), refined.scores)[0], abs=1e-5)


def test_what_the_second_look_doubts_is_dropped(refining_zoo: Path, paint_face, monkeypatch) -> None:
    # The detector is half sure of grey: the second look, which is sure that it is none, takes it away.
    detector = Detector(score_threshold=0.3, threads=1)
    monkeypatch.setattr(detector, "_run", half_sure(detector))
    assert detector.detect_raw(bright(128), 0.3) == []
    detector.refiner = None
    assert detector.detect_raw(bright(128), 0.3)


def test_second_look_lifts_what_the_first_doubted(refining_zoo: Path, paint_face, monkeypatch) -> None:
    # First scores of at most 0.4 under a threshold of 0.6: kept for the second look, which is sure of one of them.
    detector = Detector(score_threshold=0.6, threads=1)
    monkeypatch.setattr(detector, "_run", half_sure(detector))
    image = painted(paint_face, 128)
    face = detector.detect(image)[0]
    assert face.score > 0.6
    assert box_iou(face.box[None], np.array([[180, 100, 276, 196]]))[0, 0] > 0.4
    detector.refiner = None
    assert detector.detect(image) == []


def test_no_refiner_in_the_zoo_is_no_error_unless_one_is_asked_for(fake_zoo: Path) -> None:
    assert Detector(threads=1).refiner is None
    with pytest.raises(ConfigError, match="no model 'refiner'"):
        Detector(refiner="refiner", threads=1)
    with pytest.raises(ConfigError, match="no model 'other'"):
        Detector(refiner="other", threads=1)


def test_all_views_keep_the_choice_of_refiner(refining_zoo: Path, paint_face) -> None:
    image = painted(paint_face, 128)
    with_it, without = (Detector(refiner=r, threads=1) for r in ("auto", None))
    for detector in (with_it, without):
        face, wanted = AllViews(detector).detect_raw(image, 0.4)[0], detector.detect(image)[0]
        np.testing.assert_allclose(face.landmarks, wanted.landmarks, atol=1e-3)


def test_record_of_another_shape_is_refused(made: Path) -> None:
    record = made.with_suffix(".toml")
    record.write_text(record.read_text().replace("width = 64", "width = 112"))
    with pytest.raises(ModelError, match="a refiner needs width 64"):
        Refiner(made)


def test_damaged_weights_are_refused(made: Path) -> None:
    made.write_bytes(made.read_bytes()[:-3])
    assert hashlib.sha256(made.read_bytes()).hexdigest() not in made.with_suffix(".toml").read_text()
    with pytest.raises(ModelError, match="damaged"):
        Refiner(made)


def test_deterministic(refining_zoo: Path, paint_face) -> None:
    image = painted(paint_face, 140)
    first, second = (Detector(threads=1).detect(image) for _ in range(2))
    assert [face.score for face in first] == [face.score for face in second]
    assert all((a.landmarks == b.landmarks).all() for a, b in zip(first, second, strict=True))


def test_batch_equals_one_by_one_and_threads_change_nothing(refining_zoo: Path, paint_face) -> None:
    pictures = [painted(paint_face, 120), bright(128, 320, 480), painted(paint_face, 140)]
    together = Detector(threads=1).detect_batch(pictures)
    for picture, faces in zip(pictures, together, strict=True):
        alone = Detector(threads=2).detect(picture)
        assert len(alone) == len(faces)
        for one, other in zip(alone, faces, strict=True):
            np.testing.assert_allclose(one.landmarks, other.landmarks, atol=1e-3)
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_a_low_threshold_costs_a_bounded_number_of_looks(refining_zoo: Path, monkeypatch) -> None:
    detector = Detector(score_threshold=0.0, threads=1)
    run, refine = detector._run, detector.refiner.refine
    looks = []
    monkeypatch.setattr(detector, "_run", lambda batch: (np.full_like(run(batch)[0], 0.3), *run(batch)[1:]))
    monkeypatch.setattr(detector.refiner, "refine", lambda *args: (looks.append(len(args[1])), refine(*args))[1])
    rng = np.random.default_rng(0)
    detector.detect_raw(rng.integers(0, 256, (900, 1200, 3), np.uint8), 0.0)
    assert 100 < looks[0] <= 1000
