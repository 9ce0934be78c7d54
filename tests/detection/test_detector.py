"""The detector on painted faces: found at every size, in the photograph's pixels, the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekd.detection.detector import Detector, _Candidates
from facekd.detection.tiling import CLOSE_UP_BORDER_PX, CLOSE_UP_PX
from facekd.errors import ConfigError, ImageError, ModelError
from facekd.geometry import box_iou
from facekd.zoo import find_model


@pytest.fixture
def detector(fake_zoo: Path) -> Detector:
    return Detector(min_face_px=12, threads=1)  # nothing is shrunk in the fine view


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_nothing_in_an_empty_photograph(detector: Detector) -> None:
    assert detector.detect(grey(200, 300)) == []
    assert detector.detect_batch([]) == []


def test_face_is_found_where_it_is(detector: Detector, paint_face) -> None:
    image = grey(480, 640)
    paint_face(image, 200, 120, 128)
    (face,) = detector.detect(image)
    np.testing.assert_allclose(face.box, [200, 120, 328, 248], atol=3)
    assert face.box.dtype == np.float32
    assert face.landmarks.shape == (5, 2)
    assert face.landmarks.dtype == np.float32
    # As the template has them: eyes above the nose, nose above the mouth, left left of right.
    assert face.landmarks[0, 0] < face.landmarks[2, 0] < face.landmarks[1, 0]
    assert face.landmarks[0, 1] < face.landmarks[2, 1] < face.landmarks[3, 1]
    assert 0.9 < face.score <= 1


def test_small_face_in_20_megapixels(detector: Detector, paint_face) -> None:
    image = grey(3648, 5472)
    paint_face(image, 4000, 3000, 32)
    (face,) = detector.detect(image)
    np.testing.assert_allclose(face.box, [4000, 3000, 4032, 3032], atol=3)


@pytest.mark.parametrize("size", [(480, 640), (3000, 4000)], ids=["640x480", "4000x3000"])
def test_face_that_fills_the_frame(fake_zoo: Path, paint_face, size: tuple[int, int]) -> None:
    image = grey(*size)
    side = round(0.9 * size[0])
    left, top = (size[1] - side) // 2, (size[0] - side) // 2
    paint_face(image, left, top, side)
    faces = Detector(threads=1).detect(image)
    truth = np.array([[left, top, left + side, top + side]])
    assert faces
    assert box_iou(faces[0].box[None], truth)[0, 0] > 0.6


@pytest.mark.parametrize("corner", [(1264, 900), (1200, 1190), (1270, 1270)])
def test_face_on_a_cut_between_tiles_is_found_once(detector: Detector, paint_face, corner: tuple[int, int]) -> None:
    image = grey(2000, 2400)
    paint_face(image, *corner, 64)
    (face,) = detector.detect(image)
    truth = np.array([[corner[0], corner[1], corner[0] + 64, corner[1] + 64]])
    assert box_iou(face.box[None], truth)[0, 0] > 0.6


def test_box_may_reach_beyond_the_edge(detector: Detector, paint_face) -> None:
    image = grey(320, 320)
    paint_face(image, -12, 100, 128)
    (face,) = detector.detect(image)
    assert face.box[0] < 0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (40, 40), (63, 65)])
def test_tiny_pictures_are_padded(detector: Detector, paint_face, size: tuple[int, int]) -> None:
    image = grey(*size)
    if min(size) >= 40:
        paint_face(image, 4, 4, 28)
        (face,) = detector.detect(image)
        np.testing.assert_allclose(face.box, [4, 4, 32, 32], atol=3)
    else:
        assert detector.detect(image) == []


def test_batch_equals_one_by_one_whatever_the_sizes(detector: Detector, paint_face) -> None:
    images = [grey(200, 300), grey(300, 200), grey(200, 300), grey(90, 90)]
    for number, image in enumerate(images[:3]):
        paint_face(image, 20 + 30 * number, 40, 64)
    single = [detector.detect(image) for image in images]
    for alone, together in zip(single, detector.detect_batch(images), strict=True):
        assert len(alone) == len(together)
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(a.box, b.box, atol=1e-3)
            np.testing.assert_allclose(a.score, b.score, atol=1e-5)
    assert [len(faces) for faces in single] == [1, 1, 1, 0]


def test_equal_sizes_share_a_run(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    run = detector._run
    monkeypatch.setattr(detector, "_run", lambda batch: (shapes.append(batch.shape), run(batch))[1])
    detector.detect_batch([grey(200, 300)] * 3)
    close_up = CLOSE_UP_PX + 2 * CLOSE_UP_BORDER_PX
    assert sorted(shapes) == sorted([(3, 224, 320, 3), (3, 192, close_up, 3)])


def test_part_of_a_face_is_no_face(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of both views' boxes, the eye lies inside a better and larger box; IoU alone would keep it.
    boxes, scores = np.array([[50, 50, 150, 150], [70, 70, 90, 90]], np.float32), np.array([0.9, 0.8], np.float32)
    seen = _Candidates(boxes, np.zeros((2, 5, 2), np.float32), scores)
    monkeypatch.setattr(detector, "_look", lambda pictures, views, threshold: [seen])
    assert [face.score for face in detector.detect(grey(200, 200))] == pytest.approx([0.9])
    assert len(detector.detect_raw(grey(200, 200), 0.5)) == 2  # evaluation sees what the network says


def test_order_and_repetition(detector: Detector, paint_face) -> None:
    image = grey(480, 640)
    for left, side in ((10, 32), (100, 64), (300, 128)):
        paint_face(image, left, 150, side)
    first, second = detector.detect(image), detector.detect(image)
    assert len(first) == 3
    assert [face.score for face in first] == sorted((face.score for face in first), reverse=True)
    assert [face.box.tolist() for face in first] == [face.box.tolist() for face in second]


def test_raw_looks_once_at_the_own_size(detector: Detector, paint_face, monkeypatch: pytest.MonkeyPatch) -> None:
    image = grey(700, 900)
    paint_face(image, 300, 300, 64)
    shapes = []
    run = detector._run
    monkeypatch.setattr(detector, "_run", lambda batch: (shapes.append(batch.shape), run(batch))[1])
    faces = detector.detect_raw(image, 0.5)
    detector.detect_raw(image, 0.5, resize=True)
    assert shapes == [(1, 704, 928, 3), (1, 512, 640, 3)]
    np.testing.assert_allclose(faces[0].box, [300, 300, 364, 364], atol=3)
    assert len(detector.detect_raw(image, 0.0001)) > len(faces)


def test_threshold_comes_from_the_calibration(fake_zoo: Path) -> None:
    record = find_model("detector")
    assert Detector(record).score_threshold == 0.5
    assert Detector(record, score_threshold=0.9).score_threshold == 0.9
    assert record.calibration is not None
    lower = record.model_copy(update={"calibration": record.calibration.model_copy(update={"score_threshold": 0.0})})
    assert Detector(lower).score_threshold == 0.0


@pytest.mark.parametrize("wrong", [{"score_threshold": 1.1}, {"nms_iou": -0.1}, {"min_face_px": 0}])
def test_wrong_arguments(fake_zoo: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Detector(**wrong)


def test_wrong_models_and_pictures(fake_zoo: Path, detector: Detector) -> None:
    with pytest.raises(ConfigError, match="task"):
        Detector("fake-mask")
    mask = find_model("mask")
    with pytest.raises(ModelError, match="scores"):
        Detector(mask.model_copy(update={"task": "detector"}))
    with pytest.raises(ImageError, match="uint8"):
        detector.detect(np.zeros((50, 50, 3), np.float32))
