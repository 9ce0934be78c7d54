import numpy as np
import pytest

from facekd.errors import ConfigError, EnrolmentRefused
from facekd.gallery.decision import Candidate, decide, limit_for
from facekd.gallery.policy import REASONS, EnrolmentPolicy


def _box(left, side):
    return np.array([left, 0, left + side, side], np.float32)


@pytest.fixture
def face(make_face, unit):
    return lambda **changes: make_face(unit(1), **changes)


@pytest.fixture
def limit(calibration):
    return limit_for(calibration, 0.001, 1, None)


def test_no_face_is_refused():
    with pytest.raises(EnrolmentRefused) as caught:
        EnrolmentPolicy().choose([])
    assert caught.value.reason == "no-face"


def test_several_faces_are_refused_unless_told_which(face):
    middle, right, left = (face(box=_box(left, side)) for left, side in ((200, 100), (400, 120), (0, 90)))
    policy = EnrolmentPolicy()
    with pytest.raises(EnrolmentRefused, match="3 were found") as caught:
        policy.choose([middle, right, left])
    assert caught.value.reason == "several-faces"
    assert policy.choose([middle, right, left], "largest") is right
    assert [policy.choose([middle, right, left], place) for place in (1, 2, 3)] == [left, middle, right]
    with pytest.raises(ConfigError, match="has 3"):
        policy.choose([middle, right, left], 4)


def test_a_passer_by_far_behind_is_no_company(face):
    near, far = face(box=_box(0, 200)), face(box=_box(300, 49))
    assert EnrolmentPolicy().choose([far, near]) is near
    with pytest.raises(EnrolmentRefused):
        EnrolmentPolicy(background=0.2).choose([far, near])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"box": _box(0, 47)}, "too-small"),
        ({"quality": ("too-small",)}, "too-small"),
        ({"quality": ("dark", "blurred")}, "blurred"),
        ({"mask": ("mask", 0.99)}, "masked"),
        ({"mask": ("incorrect", 0.6)}, "masked"),
        ({"mask": ("incorrect", 0.59)}, "mask-unsure"),
        ({"mask": ("mask", 0.4)}, "mask-unsure"),
        ({"mask": ("none", 0.59)}, "mask-unsure"),
    ],
    ids=str,
)
def test_bad_references_are_refused_with_a_code(face, make_quality, make_mask, changes, reason):
    if "quality" in changes:
        changes = {"quality": make_quality(0.3, changes["quality"])}
    elif "mask" in changes:
        changes = {"mask": make_mask(*changes["mask"])}
    with pytest.raises(EnrolmentRefused) as caught:
        EnrolmentPolicy().check(face(**changes))
    assert caught.value.reason == reason
    assert REASONS[reason] in str(caught.value)


def test_what_is_only_doubtful_warns(face, make_quality, make_mask):
    assert EnrolmentPolicy().check(face(box=_box(0, 48))) == ()
    assert EnrolmentPolicy().check(face(quality=make_quality(0.5, ("dark", "turned")))) == ("dark", "turned")
    assert EnrolmentPolicy().check(face(mask=make_mask("none", 0.6))) == ()
    for mask in (make_mask("mask"), make_mask("incorrect", 0.4)):
        assert EnrolmentPolicy(allow_masks=True).check(face(mask=mask)) == ()


def test_enrolment_and_identification_are_unsure_of_the_same_faces(face, make_mask, limit):
    for score in (0.34, 0.59):
        assert decide([Candidate("Ada", 0.9)], limit, mask_score=score).reason == "mask-unsure"
        with pytest.raises(EnrolmentRefused, match="certainty") as caught:
            EnrolmentPolicy().check(face(mask=make_mask("none", score)))
        assert caught.value.reason == "mask-unsure"
    for score in (0.6, 0.99):
        assert decide([Candidate("Ada", 0.9)], limit, mask_score=score).person == "Ada"
        assert EnrolmentPolicy().check(face(mask=make_mask("none", score))) == ()


def test_a_policy_says_what_is_wrong_with_it():
    with pytest.raises(ConfigError, match="sleepy"):
        EnrolmentPolicy(refuse=frozenset({"sleepy"}))
    with pytest.raises(ConfigError, match="at least 1"):
        EnrolmentPolicy(max_templates=0)
