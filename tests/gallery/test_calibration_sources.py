"""From photographs, a gallery and strangers to a calibration."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.errors import ConfigError, DataError
from facekd.gallery.calibration import Calibration, from_curves
from facekd.gallery.calibration_sources import people_in_photographs, people_of_gallery, strangers_in_photographs
from facekd.gallery.policy import EnrolmentPolicy
from facekd.recognition.calibrate import FaceSet, calibrate_faces, most_alike, screen_strangers


class Masking:
    """Embeds what has a mask drawn on: the crop's first pixel says whose vector, bent a little."""

    def __init__(self, vectors):
        self.vectors = vectors
        self.seen = 0

    def embed(self, crops):
        self.seen += len(crops)
        rows = np.stack([self.vectors[int(crop[0, 0, 0])] for crop in crops])
        rows = rows + 0.05 * rows[:, ::-1]
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def pipeline(make_face, make_mask, make_pipeline, unit):
    """Pictures are known by name; crop and embedding of face k belong together."""
    vectors = {k: unit(k) for k in range(1, 10)}

    def face(k, status="none", score=0.99):
        return make_face(vectors[k], mask=make_mask(status, score), crop=np.full((112, 112, 3), k, np.uint8))

    class Named(make_pipeline):
        embedder = Masking(vectors)

        def analyze(self, image):
            return super().analyze(Path(image).name)

    return Named(
        {
            "a1.png": [face(1)],
            "a2.png": [face(2)],
            "masked.png": [face(3, "mask")],
            "unsure.png": [face(4, "mask", 0.5)],
            "two.png": [face(5), face(6)],
            "none.png": [],
        }
    )


@pytest.fixture
def people(tmp_path):
    for name in ("Ada/a1", "Ada/masked", "Ada/none", "Grace/a2", "Grace/unsure", "Grace/two", "Grace/broken"):
        path = tmp_path / "people" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    return tmp_path / "people"


def test_photographs_become_faces_or_are_left_out_with_the_reason(people, pipeline, unit):
    faces, left_out = people_in_photographs(people, pipeline)
    assert faces.people == ("Ada", "Ada", "Grace")
    assert [Path(file).name for file in faces.files] == ["a1.png", "masked.png", "a2.png"]
    assert faces.masked.tolist() == [False, True, False]
    assert np.array_equal(faces.embeddings[2], unit(2))
    assert faces.drawn is not None
    assert faces.drawn.shape == faces.embeddings.shape
    assert {(Path(file).name, reason) for file, reason in left_out} == {
        ("none.png", "no-face"),
        ("unsure.png", "mask-unsure"),
        ("two.png", "several-faces"),
        ("broken.png", "unreadable"),
    }
    plain, _ = people_in_photographs(people, pipeline, draw_masks=False)
    assert plain.drawn is None
    assert pipeline.embedder.seen == 3


def test_of_strangers_every_face_counts(people, pipeline):
    faces, left_out = strangers_in_photographs(people, pipeline)
    assert [Path(file).name for file in faces.files] == ["a1.png", "masked.png", "a2.png", "two.png", "two.png"]
    assert set(faces.people) == {""}
    assert len(left_out) == 3
    with pytest.raises(ConfigError, match="folder"):
        people_in_photographs(people / "Ada", pipeline)


def test_templates_of_a_gallery(open_gallery, unit, make_face, make_mask):
    gallery = open_gallery(policy=EnrolmentPolicy(fusion="beside", allow_masks=True))
    with pytest.raises(DataError, match="nobody"):
        people_of_gallery(gallery)
    gallery.enrol("Ada", [unit(1), unit(2, near=unit(1), cosine=0.7)])
    gallery.enrol("Grace", [make_face(unit(3), mask=make_mask("incorrect"))])
    faces = people_of_gallery(gallery)  # without the fused one
    assert faces.people == ("Ada", "Ada", "Grace")
    assert faces.masked.tolist() == [False, False, True]


def test_a_gallery_of_fused_templates_is_not_empty_but_cannot_calibrate(open_gallery, unit):
    gallery = open_gallery(policy=EnrolmentPolicy(fusion="instead"))
    gallery.enrol("Ada", [unit(1), unit(2, near=unit(1), cosine=0.7)])
    with pytest.raises(DataError, match="fused templates only, 1 of them: enrol without --fuse instead"):
        people_of_gallery(gallery)
    gallery.enrol("Grace", [unit(3)])
    assert people_of_gallery(gallery).people == ("Grace",)


def faces_of(rng, people, each, noise, masked=False, names=None):
    centres = np.random.default_rng(5).normal(size=(50, 16))[np.repeat(people, each)]
    rows = centres + noise * rng.normal(size=centres.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    of = tuple(f"p{person}" if names is None else names for person in np.repeat(people, each))
    return FaceSet(rows.astype(np.float32), of, tuple(f"{k}.png" for k in range(len(rows))), np.full(len(rows), masked))


def joined(*sets):
    return FaceSet(
        np.concatenate([part.embeddings for part in sets]),
        sum((part.people for part in sets), ()),
        sum((part.files for part in sets), ()),
        np.concatenate([part.masked for part in sets]),
    )


def test_real_masks_are_probes_only_and_drawn_ones_take_their_place_where_they_are_few():
    rng = np.random.default_rng(0)
    plain = faces_of(rng, range(20), 4, 0.3)
    masked = faces_of(rng, range(20), 3, 0.8, masked=True)
    curves = calibrate_faces(joined(plain, masked), replicates=50)
    assert curves["unmasked"].pairs == (80 * 79 - 80 * 3) // 2
    assert curves["masked"].pairs == 80 * 60 - 80 * 3
    assert curves["masked"].mated_pairs == 80 * 3
    assert curves["masked"].points[-1].fnmr > curves["unmasked"].points[-1].fnmr
    few = joined(plain, masked.where(np.arange(60) < 1))
    assert set(calibrate_faces(few, replicates=50)) == {"unmasked"}
    drawn = FaceSet(plain.embeddings, plain.people, plain.files, plain.masked, drawn=plain.embeddings[:, ::-1].copy())
    curves = calibrate_faces(drawn, replicates=50)
    assert curves["masked"].pairs == 80 * 79 - 80 * 3
    assert curves["masked"].mated_pairs == 80 * 3  # none with its own original


def test_probes_who_are_not_enrolled_and_strangers_are_impostors():
    rng = np.random.default_rng(0)
    references, probes = faces_of(rng, range(10), 3, 0.3), faces_of(rng, range(5, 15), 2, 0.3)
    strangers = faces_of(rng, range(20, 30), 1, 0.3, names="")
    curve = calibrate_faces(references, probes, strangers, 50)["unmasked"]
    assert curve.pairs == 30 * 20 - 5 * 3 * 2 + 30 * 10
    assert curve.mated_pairs == 5 * 3 * 2
    assert curve.people == 10 + 5 + 10
    assert sum(curve.non_mated_histogram) == curve.pairs
    assert sum(curve.mated_histogram) == curve.mated_pairs
    with pytest.raises(DataError, match="two"):
        calibrate_faces(references.where(np.arange(30) < 3))


def test_copies_are_no_strangers():
    rng = np.random.default_rng(0)
    references = faces_of(rng, range(4), 2, 0.3)
    strangers = faces_of(rng, range(20, 24), 1, 0.3, names="")
    copies = FaceSet(
        np.concatenate([strangers.embeddings, strangers.embeddings[:1], references.embeddings[3:4]]),
        ("",) * 6,
        ("a", "b", "c", "d", "a again", "enrolled"),
        np.zeros(6, bool),
    )
    kept, left_out = screen_strangers(references, copies)
    assert kept.files == ("a", "b", "c", "d")
    assert left_out == ("a again", "enrolled")
    ((file, person, cosine), *_) = most_alike(references, copies)
    assert (file, person) == ("enrolled", references.people[3])
    assert cosine == pytest.approx(1)


def test_an_artefact_with_its_distributions_comes_back_and_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from facekd.bench.calibration_plot import plot_calibration

    rng = np.random.default_rng(0)
    everybody = joined(faces_of(rng, range(20), 4, 0.3), faces_of(rng, range(20), 3, 0.8, masked=True))
    artefact = from_curves("c", "made up", calibrate_faces(everybody, replicates=50))
    artefact.save(tmp_path / "c.json")
    loaded = Calibration.load(tmp_path / "c.json")
    assert loaded == artefact
    assert sum(loaded.unmasked.mated_histogram) == loaded.unmasked.mated_pairs
    plot_calibration(tmp_path / "det.png", loaded)
    with Image.open(tmp_path / "det.png") as picture:
        colours = {pixel[:3] for _, pixel in picture.convert("RGB").getcolors(2**20)}
    assert {(31, 119, 180), (255, 127, 14)} <= colours  # a line of each kind of probe
    with pytest.raises(ConfigError, match="unmasked"):
        from_curves("c", "made up", {})
