import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.errors import ConfigError
from facekd.gallery.calibration import Calibration, Curve, Point, from_zoo, rule_of_three, shipped_calibration
from facekd.zoo import Calibration as ZooCalibration


def _calibration(**changes):
    points = tuple(Point(fmr=10.0**-n, threshold=0.2 + 0.1 * n, fmr_upper=2 * 10.0**-n) for n in range(1, 6))
    curve = {"points": points, "people": 40, "pairs": 1_000_000, **changes}
    return Calibration(contract="c", source="made up", unmasked=Curve(**curve))


@pytest.mark.parametrize(
    ("fmr", "threshold"),
    [(1e-1, 0.3), (1e-3, 0.5), (10**-3.5, 0.55), (1e-5, 0.7), (1e-7, 0.9), (1e-9, 1.1), (0.5, 0.3)],
)
def test_thresholds_between_and_beyond_the_points(fmr, threshold):
    assert _calibration().threshold(fmr) == pytest.approx(threshold)


@given(st.floats(1e-12, 0.1))
def test_a_threshold_read_off_has_the_rate_that_was_asked_for(fmr):
    calibration = _calibration()
    assert calibration.rate(calibration.threshold(fmr)).value == pytest.approx(fmr, rel=1e-6)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_rates_never_rise_with_the_threshold(thresholds):
    rates = [_calibration().rate(threshold) for threshold in sorted(thresholds)]
    assert all(left.value >= right.value - 1e-15 for left, right in pairwise(rates))
    assert all(left.upper >= right.upper - 1e-15 for left, right in pairwise(rates))
    assert all(rate.upper >= rate.value for rate in rates)


def test_beyond_the_data_the_rate_is_extrapolated_and_bounded_by_the_rule_of_three():
    calibration = _calibration()
    assert calibration.rate(0.7).extrapolated is False
    beyond = calibration.rate(0.9)
    assert beyond.extrapolated
    assert beyond.value == pytest.approx(1e-7)
    assert beyond.upper == pytest.approx(3e-6)  # no false match in a million pairs leaves three in a million possible
    assert rule_of_three(0) == 1.0


def test_below_the_first_point_nothing_is_promised():
    rate = _calibration().rate(0.29)
    assert (rate.value, rate.upper, rate.extrapolated) == (1.0, 1.0, True)


def test_points_of_few_people_count_as_extrapolated():
    points = tuple(
        Point(fmr=10.0**-n, threshold=0.2 + 0.1 * n, people_pairs=pairs) for n, pairs in ((1, 90), (2, 12), (3, 4))
    )
    calibration = _calibration(points=points)
    assert [calibration.rate(t).extrapolated for t in (0.3, 0.4, 0.41, 0.5)] == [False, False, True, True]


def test_without_intervals_there_is_no_upper_end():
    points = tuple(Point(fmr=10.0**-n, threshold=0.2 + 0.1 * n) for n in range(1, 6))
    calibration = _calibration(points=points)
    assert (calibration.rate(0.5).upper, calibration.rate(0.9).upper) == (None, None)


def test_masked_probes_have_a_curve_of_their_own():
    calibration = _calibration()
    masked = calibration.model_copy(
        update={
            "masked": Curve(points=(Point(fmr=0.1, threshold=0.5), Point(fmr=0.01, threshold=0.7)), people=40, pairs=9)
        }
    )
    assert masked.threshold(0.01) == pytest.approx(0.4)
    assert masked.threshold(0.01, masked=True) == pytest.approx(0.7)
    assert calibration.threshold(0.01, masked=True) == pytest.approx(0.4)


def test_an_artefact_comes_back_from_its_file(tmp_path):
    path = tmp_path / "calibration.json"
    _calibration().save(path)
    assert Calibration.load(path) == _calibration()


@pytest.mark.parametrize(
    "change",
    [{"format": "facekd calibration 99"}, {"surprise": 1}, {"unmasked": {"points": [], "people": 1, "pairs": 1}}],
    ids=["future", "unknown key", "no points"],
)
def test_what_is_no_artefact_is_refused(tmp_path, change):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**_calibration().model_dump(mode="json"), **change}))
    with pytest.raises(ConfigError, match="facekd calibrate"):
        Calibration.load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        Calibration.load(tmp_path / "absent.json")


def test_points_must_fall_and_rise():
    with pytest.raises(ValueError, match="fall in fmr"):
        Curve(points=(Point(fmr=0.01, threshold=0.5), Point(fmr=0.1, threshold=0.6)), people=1, pairs=1)


@pytest.mark.parametrize("fmr", [0, 1, -0.1, float("nan")])
def test_what_is_no_rate_is_refused(fmr):
    with pytest.raises(ConfigError):
        _calibration().threshold(fmr)


def test_the_manifests_thresholds_become_a_curve():
    record = ZooCalibration(
        source="val",
        people=40,
        pairs=100,
        thresholds={"1e-3": 0.4, "1e-2": 0.3},
        fmr_upper={"1e-3": 2e-3, "1e-2": 0.02},
    )
    calibration = from_zoo(record, "c")
    assert calibration is not None
    assert calibration.threshold(1e-2) == pytest.approx(0.3)
    assert calibration.rate(0.4).upper == pytest.approx(2e-3)
    assert from_zoo(ZooCalibration(thresholds={"1e-3": 0.4}), "c") is None
    assert shipped_calibration("no such contract") is None
