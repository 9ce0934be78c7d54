import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.errors import ConfigError
from facekd.evaluation.calibrate import CalibrationPoint, MeasuredCurve
from facekd.gallery.calibration import (
    Calibration,
    Curve,
    Point,
    Rate,
    from_curves,
    from_zoo,
    shipped_calibration,
    to_zoo,
)
from facekd.zoo import Calibration as ZooCalibration
from facekd.zoo import FalseMatchCurve


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
    unequal = calibration.unmasked.model_copy(update={"effective": 1000})  # a million that are worth a thousand
    assert calibration.model_copy(update={"unmasked": unequal}).rate(0.9).upper == pytest.approx(3e-3)
    assert calibration.unmasked.model_copy(update={"pairs": 0}).least_upper_bound == 1.0


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


def test_a_manifest_and_an_artefact_give_the_same_rates():
    def curve(rates, shift):
        points = [
            Point(
                fmr=rate,
                threshold=shift - 0.031 * math.log(rate),
                fmr_lower=rate / 3,
                fmr_upper=3 * rate,
                people_pairs=n,
            )
            for n, rate in rates.items()
        ]
        return Curve(points=tuple(points), people=40, pairs=123_456, effective=54_321)

    artefact = Calibration(
        contract="c",
        source="val",
        unmasked=curve({400: 0.1, 55: 1e-3, 12: 1 / 12345, 9: 3e-6}, 0.1),  # one rate has no short name
        masked=curve({300: 3e-2, 8: 1e-3, 7: 1e-4}, 0.05),
    )
    read = from_zoo(ZooCalibration.model_validate_json(to_zoo(artefact).model_dump_json()), "c")
    assert read is not None
    for masked in (False, True):
        points = [point.threshold for point in artefact.curve(masked=masked).points]
        between = [(left + right) / 2 for left, right in pairwise(points)]
        rates = {t: artefact.rate(t, masked=masked) for t in (points[0] - 0.1, *points, *between, points[-1] + 0.1)}
        assert {t: read.rate(t, masked=masked) for t in rates} == rates
        assert {rate.extrapolated for t, rate in rates.items() if points[0] <= t <= points[-1]} == {False, True}
        assert [read.threshold(fmr, masked=masked) for fmr in (1e-2, 1e-5)] == [
            artefact.threshold(fmr, masked=masked) for fmr in (1e-2, 1e-5)
        ]
    assert read.masked is not None
    assert [p.fmr_lower for p in read.masked.points] == [p.fmr_lower for p in artefact.masked.points]


def test_a_record_without_a_masked_curve_or_counts_is_read():
    record = ZooCalibration(thresholds={"1e-3": 0.4, "1e-2": 0.3}, masked=FalseMatchCurve(thresholds={"1e-3": 0.5}))
    calibration = from_zoo(record, "c")
    assert calibration is not None
    assert calibration.masked is None  # one threshold is no curve
    assert calibration.rate(0.4) == Rate(pytest.approx(1e-3), None, False)


def test_rounding_for_people_keeps_points_in_order_and_intervals_around_their_rates():
    def measured(*points):
        return MeasuredCurve([CalibrationPoint(*p, 0.5, 20) for p in points], 40, 100, 30, 50, (), ())

    plain = from_curves(
        "c", "val", {"unmasked": measured((1e-2, 1 / 3, 0.00912345, 0.0123456), (1e-3, 2 / 3, 1e-3, 0.00123456))}
    )
    assert (plain.unmasked.pairs, plain.unmasked.effective, plain.unmasked.mated_pairs) == (100, 30, 50)
    first, second = plain.unmasked.points
    assert (first.threshold, first.fmr_lower, first.fmr_upper) == (0.333333, 0.00912, 0.0123)
    assert (second.threshold, second.fmr_lower, second.fmr_upper) == (0.666667, 1e-3, 0.00123)
    close = from_curves("c", "val", {"unmasked": measured((1e-2, 0.5, 0.001, 0.1), (1e-3, 0.5000001, 1e-4, 0.01))})
    assert [point.threshold for point in close.unmasked.points] == [0.5, 0.5000001]
