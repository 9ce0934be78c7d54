"""The mistakes that everybody makes once end in a ConfigError that says what to do, or in what was meant."""

from inspect import signature
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from facekd import FacePipeline, FaceTracker, Gallery
from facekd.errors import ConfigError, GalleryError
from facekd.images import ImageSource


@pytest.fixture
def gallery(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1)])
    return gallery


def test_one_photograph_is_a_list_of_one(gallery, make_face, make_pipeline, unit):
    pipeline = make_pipeline({"grace.jpg": [make_face(unit(2))], str(b"\xff\xd8"): [make_face(unit(3))]})
    for name, photograph in (("Grace", "grace.jpg"), ("Path", Path("grace.jpg")), ("Bytes", b"\xff\xd8")):
        report = gallery.enrol_photographs(name, photograph, pipeline)
        assert (len(report.enrolled), report.refused) == (1, ())
    picture = np.zeros((40, 40, 3), np.uint8)
    report = gallery.enrol_photographs("Array", picture, make_pipeline({str(picture): [make_face(unit(4))]}))
    assert [photo.path for photo in report.enrolled] == ["photograph 1"]
    with pytest.raises(ConfigError, match="at least one"):
        gallery.enrol_photographs("Nobody", np.zeros((0, 40, 40, 3), np.uint8), pipeline)
    with pytest.raises(ConfigError, match="in a list, got int"):
        gallery.enrol_photographs("Nobody", 5, pipeline)


def test_what_is_no_list_of_faces_is_not_enrolled(gallery, make_face, unit):
    for wrong in (make_face(unit(2)), unit(2), "grace.jpg", 3):
        with pytest.raises(ConfigError, match=r"\[face\]"):
            gallery.enrol("Grace", wrong)
    for wrong in ("grace.jpg", [make_face(unit(2))]):
        with pytest.raises(ConfigError, match="FacePipeline"):
            gallery.enrol("Grace", [wrong])
    assert [person.name for person in gallery.people()] == ["Ada"]
    assert gallery.enrol("Grace", np.stack([unit(2), unit(3)])).enrolled == (0, 1)


def test_an_array_of_embeddings_is_of_the_type_that_is_asked_for():
    asked = signature(Gallery.enrol).parameters["faces"], signature(Gallery.identify_many).parameters["probes"]
    assert ["NDArray[np.float32]" in parameter.annotation for parameter in asked] == [True, True]


def test_what_is_no_face_is_not_identified(gallery, make_face, unit):
    for wrong in ([make_face(unit(1))], "ada.jpg", None):
        with pytest.raises(ConfigError, match="FacePipeline"):
            gallery.identify(wrong)
        with pytest.raises(ConfigError, match="FacePipeline"):
            gallery.verify("Ada", wrong)
    for wrong in (make_face(unit(1)), unit(1)):
        with pytest.raises(ConfigError, match=r"\[face\]"):
            gallery.identify_many(wrong)
    assert [decision.person for decision in gallery.identify_many(np.stack([unit(1), unit(2)]))] == ["Ada", None]


def test_a_rate_in_words_is_refused(gallery, unit):
    for wrong in ({"fpir": "0.01"}, {"threshold": "0.5"}):
        with pytest.raises(ConfigError, match="must be a number"):
            gallery.identify(unit(1), **wrong)
    with pytest.raises(ConfigError, match="fmr must be a number"):
        gallery.verify("Ada", unit(1), fmr="0.01")


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "contract": ["", 5],
        "dimension": [0, -1, 1.5, "512", True],
        "calibration": ["calibration.json"],
        "policy": ["strict"],
        "key": [b"k" * 32, "k" * 32],
        "timeout_s": [-1, float("nan"), float("inf"), "5", None, True],
        "clock": [None, 5],
    }.items(),
)
def test_a_gallery_is_not_opened_with_a_wrong_argument(open_gallery, tmp_path, name, values):
    for value in values:
        with pytest.raises(ConfigError, match=f"{name} must be"):
            open_gallery(**{name: value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("location", [None, 5, b"people.db"])
def test_a_location_is_a_path_or_an_address(location):
    with pytest.raises(ConfigError, match="location must be"):
        Gallery.open(location)


@pytest.mark.parametrize("kind", [np.complex64, np.bool_, np.str_, np.object_])
def test_an_embedding_is_of_real_numbers(gallery, kind):
    gallery.enrol("Axis", [np.eye(128, dtype=np.float32)[0]])
    wrong = np.eye(128)[0].astype(kind)
    for ask in (gallery.identify, lambda probe: gallery.enrol("Grace", [probe])):
        with pytest.raises(ConfigError, match="real numbers"):
            ask(wrong)


def test_an_empty_gallery_is_no_missing_one(open_gallery):
    assert open_gallery()


@pytest.mark.parametrize("name", ["detector", "embedder", "mask_head"])
def test_a_pipeline_says_what_it_is_made_of(name):
    with pytest.raises(ConfigError, match=f"{name} of a pipeline"):
        FacePipeline(**{name: name})


BUFFERS = [bytearray(b"\xff\xd8"), memoryview(b"\xff\xd8")]


@pytest.mark.parametrize("photograph", BUFFERS)
def test_a_buffer_is_one_photograph_and_not_one_a_byte(gallery, make_face, make_pipeline, unit, photograph):
    report = gallery.enrol_photographs("Grace", photograph, make_pipeline({str(photograph): [make_face(unit(2))]}))
    assert [photo.path for photo in report.enrolled] == ["photograph 1"]
    assert type(photograph) in get_args(ImageSource)


@pytest.mark.parametrize(
    "one", ["photograph.jpg", Path("photograph.jpg"), np.zeros((40, 40, 3), np.uint8), b"\xff\xd8", *BUFFERS]
)
def test_one_photograph_is_no_batch(one):
    with pytest.raises(ConfigError, match="in a list"):
        FacePipeline.analyze_batch(object(), one)


def test_a_tracker_says_what_it_asks(make_pipeline):
    with pytest.raises(ConfigError, match=r"pipeline\.detector"):
        FaceTracker(make_pipeline({}))


def test_a_gallery_in_use_or_read_only_is_told_with_a_remedy_that_there_is(gallery, open_gallery, unit):
    other = open_gallery(timeout_s=0.05)
    with gallery.store.writing(), pytest.raises(GalleryError, match="try again when it is done"):
        other.enrol("Grace", [unit(2)])
    other.store.connection.sqlite.execute("PRAGMA query_only = ON")
    with pytest.raises(GalleryError, match="facekd gallery backup"):
        other.enrol("Grace", [unit(2)])
