"""One template of several photographs: what it is made of, what it counts as, and that it goes with its photographs."""

from datetime import UTC, datetime, timedelta
from itertools import count

import numpy as np
import pytest

from facekd.errors import ConfigError, GalleryError
from facekd.gallery.decision import limit_for
from facekd.gallery.fusion import fuse, parse_fusion
from facekd.gallery.maintenance import check, reembed
from facekd.gallery.outliers import audit_templates
from facekd.gallery.policy import EnrolmentPolicy
from facekd.gallery.records import NewTemplate

BESIDE, INSTEAD = EnrolmentPolicy(fusion="beside"), EnrolmentPolicy(fusion="instead")


@pytest.fixture
def photographs(unit, make_face, make_quality):
    """Three photographs of one person, of unequal quality."""
    centre = unit(1)
    vectors = [unit(seed, near=centre, cosine=0.8) for seed in (2, 3, 4)]
    return [make_face(v, quality=make_quality(q)) for v, q in zip(vectors, (0.9, 0.6, 0.3), strict=True)]


def _mean(faces):
    total = sum(face.quality.score * face.embedding for face in faces)
    return total / np.linalg.norm(total)


def test_a_fused_template_is_the_quality_weighted_mean(photographs):
    made = fuse([NewTemplate(face.embedding, face.quality.score, "none") for face in photographs])
    assert made.embedding == pytest.approx(_mean(photographs), abs=1e-6)
    assert np.linalg.norm(made.embedding) == pytest.approx(1, abs=1e-6)
    assert (made.photographs, made.mask, made.crop) == (3, "none", None)
    even = fuse([NewTemplate(face.embedding) for face in photographs])
    assert even.quality is None
    total = sum(face.embedding for face in photographs)
    assert even.embedding == pytest.approx(total / np.linalg.norm(total), abs=1e-6)


def test_instead_of_the_photographs_of_one_enrolment(open_gallery, photographs, make_face, make_mask, unit):
    gallery = open_gallery(policy=INSTEAD)
    masked = make_face(unit(9, near=unit(1), cosine=0.8), mask=make_mask("mask"))
    gallery.enrol("Ada", [*photographs, masked], policy=EnrolmentPolicy(fusion="instead", allow_masks=True))
    fused, single = gallery.templates("Ada")
    assert fused.embedding == pytest.approx(_mean(photographs), abs=1e-6)
    assert (fused.photographs, single.photographs, single.mask) == (3, 1, "mask")
    gallery.enrol("Ada", [make_face(unit(7, near=unit(1), cosine=0.7))])
    assert [template.photographs for template in gallery.templates("Ada")] == [3, 1, 1]  # one photograph needs no mean


def test_it_counts_as_its_photographs(open_gallery, photographs, calibration, unit):
    gallery = open_gallery(policy=INSTEAD)
    gallery.enrol("Ada", photographs)
    gallery.enrol("Grace", [unit(20)])
    assert len(gallery) == 2
    wanted = limit_for(calibration, 0.001, 4, None)
    assert gallery.identify(unit(30), fpir=0.001).threshold == pytest.approx(wanted.threshold)
    assert gallery.verify("Ada", unit(30), fmr=1e-3).threshold == pytest.approx(
        limit_for(calibration, 1e-3, 3, None).threshold
    )


def test_beside_the_photographs_it_is_renewed_with_them(open_gallery, photographs, calibration, unit, make_face):
    gallery = open_gallery(policy=BESIDE)
    gallery.enrol("Ada", photographs[:1])
    assert [template.photographs for template in gallery.templates("Ada")] == [1]
    gallery.enrol("Ada", photographs[1:])
    assert [template.photographs for template in gallery.templates("Ada")] == [1, 1, 1, 3]
    assert gallery.templates("Ada")[-1].embedding == pytest.approx(_mean(photographs), abs=1e-6)
    fourth = make_face(unit(5, near=unit(1), cosine=0.8))
    gallery.enrol("Ada", [fourth])
    *singles, fused = gallery.templates("Ada")
    assert [template.photographs for template in (*singles, fused)] == [1, 1, 1, 1, 4]
    assert fused.embedding == pytest.approx(_mean([*photographs, fourth]), abs=1e-6)
    assert gallery.identify(unit(30)).threshold == pytest.approx(limit_for(calibration, 0.001, 8, None).threshold)
    gallery.remove_templates("Ada", [singles[0].id])
    *_, fused = gallery.templates("Ada")
    assert fused.photographs == 3
    assert fused.embedding == pytest.approx(_mean([*photographs[1:], fourth]), abs=1e-6)
    gallery.remove_templates("Ada", [template.id for template in gallery.templates("Ada")[1:3]])
    assert [template.photographs for template in gallery.templates("Ada")] == [1]
    assert check(gallery).problems == ()


def test_a_strangers_photograph_stays_out_and_does_not_hide(open_gallery, photographs, unit):
    gallery = open_gallery(policy=BESIDE)
    gallery.enrol("Ada", [*photographs, unit(40)])
    *singles, fused = gallery.templates("Ada")
    assert fused.photographs == 3
    assert fused.embedding == pytest.approx(_mean(photographs), abs=1e-6)
    found = audit_templates(gallery)
    assert [(finding.kind, finding.template) for finding in found] == [("unlike-own", singles[3].id)]


def test_what_was_fused_in_one_enrolment_outlives_other_photographs(open_gallery, photographs, unit, make_face):
    gallery = open_gallery(policy=INSTEAD)
    gallery.enrol("Ada", photographs)
    gallery.enrol("Ada", [make_face(unit(8, near=unit(1), cosine=0.7))])
    gallery.remove_templates("Ada", [gallery.templates("Ada")[1].id])
    assert [template.photographs for template in gallery.templates("Ada")] == [3]


def test_photographs_have_ids_unless_only_their_mean_is_stored(open_gallery, photographs, unit, make_face, make_mask):
    gallery = open_gallery()
    assert gallery.enrol("Ada", photographs, policy=BESIDE).ids == (1, 2, 3)  # and 4, of all
    masked = make_face(unit(9, near=unit(1), cosine=0.8), mask=make_mask("mask"))
    instead = EnrolmentPolicy(fusion="instead", allow_masks=True)
    assert gallery.enrol("Grace", [masked, *photographs], policy=instead).ids == (6, None, None, None)
    assert [template.photographs for template in gallery.templates("Grace")] == [3, 1]


def test_no_mean_outlives_a_damaged_photograph_that_is_removed(open_gallery, photographs):
    gallery = open_gallery()
    gallery.enrol("Ada", photographs, policy=BESIDE)
    gallery.store.connection.sqlite.execute("UPDATE templates SET template = zeroblob(516) WHERE id = 2")
    with pytest.raises(GalleryError, match="people remove Ada --template 2"):
        gallery.templates("Ada")
    assert gallery.record("Ada").damaged == (2,)
    removal = gallery.remove_templates("Ada", [2])
    assert (removal.templates, removal.fused) == (1, 1)
    assert [template.id for template in gallery.templates("Ada")] == [1, 3]
    assert check(gallery).problems == ()


@pytest.fixture
def ticking(open_gallery):
    """A gallery whose every change has a time of its own, as in life."""
    seconds = count()
    return open_gallery(clock=lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(seconds)))


def _as_earlier_versions_left(gallery, name, faces):
    """Photographs fused ``beside``, then more without: the fusion stayed as it was."""
    first, *more = faces
    gallery.enrol(name, first, policy=BESIDE)
    number = next(person.number for person in gallery.people() if person.name == name)
    for portion in more:
        with gallery.store.writing():
            templates = [NewTemplate(face.embedding, face.quality.score, "none") for face in portion]
            gallery.store.add_templates(number, templates, gallery.now())


def _counts(gallery, name="Ada"):
    return [template.photographs for template in gallery.templates(name)]


@pytest.mark.parametrize("policy", [EnrolmentPolicy(), INSTEAD], ids=["none", "instead"])
def test_it_is_renewed_by_an_enrolment_of_any_policy(ticking, photographs, policy):
    ticking.enrol("Ada", photographs[:2], policy=BESIDE)
    ticking.enrol("Ada", photographs[2:], policy=policy)
    assert _counts(ticking) == [1, 1, 1, 3]
    assert ticking.templates("Ada")[-1].embedding == pytest.approx(_mean(photographs), abs=1e-6)
    removal = ticking.remove_templates("Ada", [1])
    assert (removal.templates, removal.fused, removal.erased) == (1, 0, True)
    assert _counts(ticking) == [1, 1, 2]
    assert ticking.templates("Ada")[-1].embedding == pytest.approx(_mean(photographs[1:]), abs=1e-6)


def test_it_is_renewed_by_a_merging_import(ticking, open_gallery, photographs, tmp_path):
    other = open_gallery(tmp_path / "other.db")
    other.enrol("Ada", photographs, policy=BESIDE)
    other.export(tmp_path / "people.zip")
    ticking.enrol("Ada", photographs[:2], policy=BESIDE)
    report = ticking.import_(tmp_path / "people.zip", merge=True)
    assert (report.templates, report.present) == (2, 2)  # the third photograph, and the mean of all
    assert _counts(ticking) == [1, 1, 1, 3]
    again = ticking.import_(tmp_path / "people.zip", merge=True)
    assert (again.templates, again.present) == (0, 4)
    ticking.remove_templates("Ada", [1])
    assert _counts(ticking) == [1, 1, 2]


def test_a_stale_one_of_an_earlier_version_goes_with_its_photograph(ticking, photographs):
    _as_earlier_versions_left(ticking, "Ada", [photographs[:2], photographs[2:]])
    assert _counts(ticking) == [1, 1, 2, 1]
    removal = ticking.remove_templates("Ada", [1])
    assert removal.erased
    assert _counts(ticking) == [1, 1, 2]
    assert ticking.templates("Ada")[-1].embedding == pytest.approx(_mean(photographs[1:]), abs=1e-6)


def test_one_that_holds_what_an_earlier_version_removed_is_renewed(ticking, photographs, unit, make_face):
    _as_earlier_versions_left(ticking, "Ada", [photographs[:2], photographs[2:]])
    with ticking.store.writing():
        ticking.store.remove_templates([1])
    assert _counts(ticking) == [1, 2, 1]
    fourth = make_face(unit(5, near=unit(1), cosine=0.8))
    ticking.enrol("Ada", [fourth])
    assert _counts(ticking) == [1, 1, 1, 3]
    assert ticking.templates("Ada")[-1].embedding == pytest.approx(_mean([*photographs[1:], fourth]), abs=1e-6)


def test_what_cannot_be_shown_free_of_the_removed_goes(ticking, photographs, unit, make_face):
    older, newer = (make_face(unit(seed, near=unit(1), cosine=0.7)) for seed in (8, 9))
    ticking.enrol("Ada", [older])
    ticking.enrol("Ada", photographs, policy=INSTEAD)
    ticking.enrol("Ada", [newer])
    assert ticking.remove_templates("Ada", [3]).fused == 0  # stored after the mean was made
    assert _counts(ticking) == [1, 3]
    removal = ticking.remove_templates("Ada", [1])
    assert (removal.templates, removal.fused) == (1, 1)
    assert _counts(ticking) == []


def test_a_stale_one_is_re_embedded(open_gallery, photographs, unit):
    gallery = open_gallery(policy=EnrolmentPolicy(keep_crops=True))
    gallery.enrol("Ada", photographs[:2], policy=EnrolmentPolicy(fusion="beside", keep_crops=True))
    with gallery.store.writing():
        third = NewTemplate(photographs[2].embedding, 0.3, "none", photographs[2].crop)
        gallery.store.add_templates(1, [third], gallery.now())
    new = [unit(seed, near=unit(50, dimension=64), cosine=0.8, dimension=64) for seed in (51, 52, 53)]
    assert reembed(gallery, lambda crops: np.stack(new[: len(crops)]), contract="f" * 16, dimension=64) == 4


def test_it_is_fused_anew_after_a_model_upgrade(open_gallery, photographs, unit):
    gallery = open_gallery(policy=EnrolmentPolicy(fusion="beside", keep_crops=True))
    gallery.enrol("Ada", photographs)
    new = [unit(seed, near=unit(50, dimension=64), cosine=0.8, dimension=64) for seed in (51, 52, 53)]
    assert reembed(gallery, lambda crops: np.stack(new[: len(crops)]), contract="f" * 16, dimension=64) == 4
    again = open_gallery(contract="f" * 16, dimension=64, calibration=None)
    mean = sum(quality * row for quality, row in zip((0.9, 0.6, 0.3), new, strict=True))
    assert again.templates("Ada")[-1].embedding == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


def test_it_travels_with_an_export(open_gallery, photographs, tmp_path):
    gallery = open_gallery(policy=BESIDE)
    gallery.enrol("Ada", photographs)
    gallery.export(tmp_path / "people.zip")
    other = open_gallery(tmp_path / "other.db")
    other.import_(tmp_path / "people.zip")
    assert [template.photographs for template in other.templates("Ada")] == [1, 1, 1, 3]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="beside"):
        EnrolmentPolicy(fusion="sideways")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="crop"):
        EnrolmentPolicy(fusion="instead", keep_crops=True)
    assert parse_fusion("beside") == "beside"
    with pytest.raises(ConfigError, match="--fuse"):
        parse_fusion("both")
