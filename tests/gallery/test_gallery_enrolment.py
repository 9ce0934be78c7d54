import pytest

from facekd.errors import ConfigError
from facekd.gallery.enrolment import explain, people_of_folder
from facekd.gallery.policy import EnrolmentPolicy


def test_each_photograph_is_enrolled_or_refused_with_its_reason(
    open_gallery, unit, make_face, make_pipeline, make_mask
):
    pipeline = make_pipeline(
        {
            "good.jpg": [make_face(unit(1))],
            "again.jpg": [make_face(unit(1))],
            "second.jpg": [make_face(unit(2, near=unit(1), cosine=0.7))],
            "street.jpg": [],
            "party.jpg": [make_face(unit(3)), make_face(unit(4))],
            "surgeon.jpg": [make_face(unit(5), mask=make_mask("mask"))],
        }
    )
    gallery = open_gallery()
    names = ["street.jpg", "good.jpg", "absent.jpg", "again.jpg", "party.jpg", "second.jpg", "surgeon.jpg"]
    report = gallery.enrol_photographs("Ada", names, pipeline)
    assert [photo.path for photo in report.enrolled] == ["good.jpg", "second.jpg"]
    assert [(photo.path, photo.reason) for photo in report.refused] == [
        ("street.jpg", "no-face"),
        ("absent.jpg", "unreadable"),
        ("again.jpg", "already-enrolled"),
        ("party.jpg", "several-faces"),
        ("surgeon.jpg", "masked"),
    ]
    assert report.exit_code == 3
    assert report.to_dict()["enrolled"][0] == {
        "path": "good.jpg",
        "id": 1,
        "quality": 0.9,
        "warnings": [],
    }
    assert gallery.people()[0].templates == 2


def test_somebody_of_whom_everything_was_refused_is_not_added(open_gallery, make_pipeline):
    gallery = open_gallery()
    report = gallery.enrol_photographs("Ada", ["street.jpg"], make_pipeline({"street.jpg": []}))
    assert report.exit_code == 5
    assert gallery.people() == []


def test_the_face_that_is_meant_is_taken(open_gallery, unit, make_face, make_pipeline):
    import numpy as np

    left, right = (
        make_face(unit(seed), box=np.array([x, 0, x + 90, 90], np.float32)) for seed, x in ((1, 0), (2, 200))
    )
    gallery = open_gallery()
    pipeline = make_pipeline({"two.jpg": [right, left], "one.jpg": [left]})
    gallery.enrol_photographs("Right", ["two.jpg"], pipeline, which=2)
    assert gallery.identify(unit(2)).person == "Right"
    refused = gallery.enrol_photographs("Right", ["one.jpg"], pipeline, which=2).refused
    assert refused[0].reason == "no-face"


def test_a_face_of_somebody_else_is_told(open_gallery, unit, make_face):
    gallery = open_gallery()
    gallery.enrol("Ada", [make_face(unit(1))])
    # The fixture's line reaches an FMR of 1e-4 at 0.6.
    done = gallery.enrol("Ada Byron", [make_face(unit(2, near=unit(1), cosine=0.61)), make_face(unit(9))])
    assert [(told.position, told.code, told.other) for told in done.warnings] == [
        (0, "belongs-to-other", "Ada"),
        (1, "unlike-others", None),
    ]
    assert done.warnings[0].score == pytest.approx(0.61, abs=1e-4)
    assert "'Ada', cosine 0.610" in explain(done.warnings[0])
    assert done.enrolled == (0, 1)
    calm = gallery.enrol("Grace", [make_face(unit(3, near=unit(1), cosine=0.59))])
    assert calm.warnings == ()


def test_a_photograph_unlike_the_persons_others_is_told(open_gallery, unit):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1)])
    done = gallery.enrol("Ada", [unit(2, near=unit(1), cosine=0.5), unit(3, near=unit(1), cosine=-0.2)])
    assert [(told.position, told.code) for told in done.warnings] == [(1, "unlike-others")]


def test_the_limit_of_templates_counts_what_is_there_already(open_gallery, unit):
    gallery = open_gallery(policy=EnrolmentPolicy(max_templates=3))
    gallery.enrol("Ada", [unit(1), unit(2)])
    done = gallery.enrol("Ada", [unit(3), unit(4)])
    assert done.enrolled == (0,)
    assert [(position, error.reason) for position, error in done.refused] == [(1, "template-limit")]


def test_crops_are_kept_only_where_the_owner_chose_so(open_gallery, unit, make_face):
    import numpy as np

    crop = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    gallery = open_gallery()
    gallery.enrol("Ada", [make_face(unit(1), crop=crop)])
    gallery.enrol("Grace", [make_face(unit(2), crop=crop)], policy=EnrolmentPolicy(keep_crops=True))
    with gallery.store.reading():
        kept = [gallery.store.crop(gallery.templates(name)[0].id) for name in ("Ada", "Grace")]
    assert kept[0] is None
    assert np.array_equal(kept[1], crop)
    assert gallery.templates("Grace")[0].mask == "none"
    assert gallery.templates("Grace")[0].quality == pytest.approx(0.9)


def test_a_folder_of_peoples_folders(tmp_path, unit):
    from PIL import Image

    for name in ("Grace/b.png", "Grace/a.jpg", "Ada/x.png", ".thumbs/a.png", "Empty/readme.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no picture")
        else:
            Image.new("RGB", (8, 8)).save(path)
    found = [(name, [path.name for path in paths]) for name, paths in people_of_folder(tmp_path)]
    assert found == [("Ada", ["x.png"]), ("Empty", []), ("Grace", ["a.jpg", "b.png"])]
    for wrong in (tmp_path / "absent", tmp_path / "Empty"):
        with pytest.raises(ConfigError, match="folder"):
            list(people_of_folder(wrong))


def test_no_photograph_is_wrong_use(open_gallery, make_pipeline):
    with pytest.raises(ConfigError, match="at least one"):
        open_gallery().enrol_photographs("Ada", [], make_pipeline({}))
