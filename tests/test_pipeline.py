"""From photograph to faces, with the fake models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facekd.detection.detector import Detection
from facekd.errors import ImageError, ModelError
from facekd.images import save_image
from facekd.pipeline import FacePipeline


@pytest.fixture
def pipeline(fake_zoo: Path) -> FacePipeline:
    return FacePipeline(threads=1)


@pytest.fixture
def photograph(paint_face) -> np.ndarray:
    image = np.full((480, 640, 3), 128, np.uint8)
    paint_face(image, 60, 100, 120, person=1)
    paint_face(image, 400, 200, 100, person=2, mask="mask")
    return image


def test_faces_with_everything(pipeline: FacePipeline, photograph: np.ndarray) -> None:
    faces = sorted(pipeline.analyze(photograph), key=lambda face: face.box[0])
    assert len(faces) == 2
    np.testing.assert_allclose(faces[0].box, [60, 100, 180, 220], atol=6)
    assert [face.mask.status for face in faces] == ["none", "mask"]
    for face in faces:
        assert face.crop.shape == (112, 112, 3)
        assert face.embedding.shape == (512,)
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
        assert 0 <= face.quality.score <= 1
    assert faces[0].embedding @ faces[1].embedding < 0.5


def test_the_same_person_elsewhere(pipeline: FacePipeline, photograph: np.ndarray, paint_face) -> None:
    other = np.full((700, 500, 3), 90, np.uint8)
    paint_face(other, 130, 333, 170, person=1)
    (again,) = pipeline.analyze(other)
    first, second = sorted(pipeline.analyze(photograph), key=lambda face: face.box[0])
    assert again.embedding @ first.embedding > 0.8 > 0.5 > again.embedding @ second.embedding


def test_batch_keeps_the_order(pipeline: FacePipeline, photograph: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "photograph.png"
    save_image(path, photograph)
    empty = np.full((100, 100, 3), 128, np.uint8)
    got = pipeline.analyze_batch([empty, path, photograph, empty])
    assert [len(faces) for faces in got] == [0, 2, 2, 0]
    for a, b in zip(got[1], pipeline.analyze(photograph), strict=True):
        np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-5)
        assert a.to_dict() == b.to_dict()
    assert pipeline.analyze_batch([]) == []


def test_json_form(pipeline: FacePipeline, photograph: np.ndarray) -> None:
    face = pipeline.analyze(photograph)[0].to_dict()
    assert json.loads(json.dumps(face)) == face
    assert set(face) == {"box", "landmarks", "score", "mask", "quality"}
    assert set(face["mask"]) == {"status", "score"}  # type: ignore[call-overload]
    assert set(face["quality"]) == {"score", "reasons"}  # type: ignore[call-overload]
    assert np.shape(face["landmarks"]) == (5, 2)


def test_five_points_in_one_spot_are_no_face(
    pipeline: FacePipeline, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = pipeline.detector.detect(photograph)[0]
    bad = Detection(good.box, np.full((5, 2), 9, np.float32), 0.99)
    monkeypatch.setattr(pipeline.detector, "detect_batch", lambda images: [[bad, good]])
    (face,) = pipeline.analyze(photograph)
    assert face.score == good.score


def test_errors_pass_through(pipeline: FacePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match=r"none\.jpg"):
        pipeline.analyze(tmp_path / "none.jpg")
    monkeypatch.setenv("FACEKD_ZOO", str(tmp_path))
    with pytest.raises(ModelError, match=r"manifest\.toml"):
        FacePipeline()
