import pytest

from facekd.errors import ConfigError
from facekd.gallery.decision import Candidate, compare, decide, limit_for

ADA, GRACE = Candidate("Ada", 0.7), Candidate("Grace", 0.4)


@pytest.fixture
def limit(calibration):
    return limit_for(calibration, 0.001, 1, None)  # threshold 0.5


def test_nobody_in_an_empty_gallery(limit):
    decision = decide([], limit)
    assert (decision.person, decision.outcome, decision.margin) == (None, "nobody", None)


@pytest.mark.parametrize(
    ("candidates", "mask_score", "person", "outcome", "reason"),
    [
        ([ADA], None, "Ada", "match", None),
        ([ADA, GRACE], 0.99, "Ada", "match", None),
        ([Candidate("Ada", 0.5), GRACE], None, "Ada", "match", None),
        ([Candidate("Ada", 0.4999), GRACE], None, None, "nobody", None),
        ([ADA, Candidate("Grace", 0.66)], None, None, "try-again", "ambiguous"),
        ([ADA, Candidate("Grace", 0.64)], None, "Ada", "match", None),
        ([ADA, GRACE], 0.59, None, "try-again", "mask-unsure"),
        ([GRACE, Candidate("Ada", 0.39)], 0.4, None, "nobody", None),
    ],
)
def test_decides(limit, candidates, mask_score, person, outcome, reason):
    decision = decide(candidates, limit, mask_score=mask_score)
    assert (decision.person, decision.outcome, decision.reason) == (person, outcome, reason)
    assert decision.best == candidates[0].person
    assert decision.to_dict()["person"] == person
    assert "best" not in decision.to_dict()


def test_more_comparisons_need_a_higher_threshold(calibration):
    thresholds = [limit_for(calibration, 0.001, count, None).threshold for count in (0, 1, 10, 100)]
    assert thresholds == pytest.approx([0.5, 0.5, 0.6, 0.7])
    limit = limit_for(calibration, 0.001, 100, None)
    assert limit.error == pytest.approx(0.001)
    assert limit.upper == pytest.approx(0.002)
    assert not limit.extrapolated
    assert limit_for(calibration, 0.001, 1000, None).extrapolated


def test_a_threshold_by_hand_keeps_its_error_rate(calibration):
    limit = limit_for(calibration, 0.001, 10, 0.5)
    assert limit.threshold == 0.5
    assert limit.error == pytest.approx(0.01)
    assert limit_for(calibration, 0.001, 10_000, 0.5).error == 1.0
    assert limit_for(None, 0.001, 10, 0.5).error is None


@pytest.mark.parametrize(
    ("error", "threshold"), [(0.0, None), (1.0, None), (-1, None), (0.1, 1.5), (float("nan"), None)]
)
def test_refuses_rates_and_thresholds_that_are_none(calibration, error, threshold):
    with pytest.raises(ConfigError):
        limit_for(calibration, error, 1, threshold)


def test_compares_two_faces(calibration, unit):
    one = unit(1)
    assert compare(one, unit(2, near=one, cosine=0.61), calibration, fmr=1e-4).same
    answer = compare(one, unit(2, near=one, cosine=0.59), calibration, fmr=1e-4)
    assert not answer.same
    assert answer.fmr == pytest.approx(1e-4)
    assert compare(one, one, calibration).score <= 1.0


@pytest.mark.parametrize(
    ("mask_score", "cosine", "outcome", "reason"),
    [
        (None, 0.61, "same", None),
        (0.6, 0.61, "same", None),
        (0.59, 0.61, "try-again", "mask-unsure"),
        (0.59, 0.59, "different", None),  # another photograph would not help
    ],
)
def test_a_pair_of_which_the_mask_head_is_unsure_is_not_granted(calibration, unit, mask_score, cosine, outcome, reason):
    one = unit(1)
    answer = compare(one, unit(2, near=one, cosine=cosine), calibration, fmr=1e-4, mask_score=mask_score)
    assert (answer.outcome, answer.reason, answer.same) == (outcome, reason, outcome == "same")
    assert answer.to_dict() | {"outcome": outcome, "reason": reason} == answer.to_dict()
