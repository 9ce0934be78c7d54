"""Verification figures against hand-computed values and naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facekd.evaluation.verification import (
    best_threshold,
    det_curve,
    equal_error_rate,
    folded_accuracy,
    rate_label,
    tar_at_far,
    threshold_at_far,
    verification_figures,
)


def test_nothing_to_compare_is_refused() -> None:
    none = np.empty(0)
    with pytest.raises(ValueError, match="no non-mated"):
        threshold_at_far(none, 0.1)
    with pytest.raises(ValueError, match="needs both"):
        det_curve(none, np.ones(1))
    with pytest.raises(ValueError, match="needs at least two"):
        folded_accuracy(none, none.astype(bool), none.astype(int))
    assert math.isnan(tar_at_far(none, np.ones(3), 0.5).tar)


@pytest.mark.parametrize("rate", [0, -0.1, 1.1])
def test_rates_out_of_range(rate: float) -> None:
    with pytest.raises(ValueError, match="wanted a share"):
        threshold_at_far(np.ones(3), rate)


@pytest.mark.parametrize(
    ("far", "accepted"),
    [
        (0.1, 1),  # exactly one of ten
        (0.19, 1),
        (0.2, 2),
        (0.05, 0),  # too few comparisons to show it: nothing may be accepted
        (1.0, 10),
    ],
)
def test_threshold_accepts_the_stated_share(far: float, accepted: int) -> None:
    scores = np.random.default_rng(0).permutation(np.linspace(0.0, 0.9, 10)).astype(np.float32)
    threshold, count = threshold_at_far(scores, far)
    assert count == accepted == (scores >= threshold).sum()
    if 0 < accepted < 10:  # and no lower threshold would do
        refused = scores[scores < threshold].max()
        assert (scores >= refused).sum() > far * 10


def test_ties_are_all_refused_together() -> None:
    threshold, count = threshold_at_far(np.array([0.5, 0.5, 0.5, 0.1]), 0.5)
    assert (threshold > 0.5, count) == (True, 0)


def test_the_highest_are_enough() -> None:
    scores = np.random.default_rng(1).normal(size=1000)
    top = np.sort(scores)[-51:]
    assert threshold_at_far(top, 0.05, total=1000) == threshold_at_far(scores, 0.05)
    with pytest.raises(ValueError, match="needs the 52 highest"):
        threshold_at_far(top, 0.051, total=1000)


def test_tar_counts_scores_at_the_threshold() -> None:
    point = tar_at_far(np.array([0.9, 0.6, 0.5]), np.array([0.55, 0.3, 0.2, 0.1]), 0.25)
    assert (point.tar, point.false_matches) == (1.0, 1)  # threshold just above 0.3
    point = tar_at_far(np.array([0.9, 0.6, 0.5]), np.array([0.55, 0.3, 0.2, 0.1]), 0.01)
    assert (point.tar, point.false_matches) == (pytest.approx(2 / 3), 0)  # just above 0.55


@pytest.mark.parametrize(
    ("rate", "label"), [(1e-2, "1e-2"), (5e-4, "5e-4"), (2.5e-3, "2.5e-3"), (0.1, "1e-1"), (1, "1e0")]
)
def test_labels_of_rates(rate: float, label: str) -> None:
    assert rate_label(rate) == label


@pytest.mark.parametrize(
    ("mated", "non_mated", "rate"),
    [
        ([0.9, 0.8], [0.1, 0.2], 0.0),
        ([0.1, 0.2], [0.8, 0.9], 1.0),
        ([0.9, 0.4], [0.5, 0.1], 0.5),
        ([0.5, 0.5], [0.5, 0.5], 0.5),  # one threshold only: halfway between accepting none and all
        ([0.9, 0.8, 0.7, 0.3], [0.6, 0.2, 0.1, 0.0], 0.25),
    ],
)
def test_equal_error_rate(mated: list[float], non_mated: list[float], rate: float) -> None:
    assert equal_error_rate(np.array(mated), np.array(non_mated)) == pytest.approx(rate)


def test_det_curve_against_a_loop() -> None:
    rng = np.random.default_rng(2)
    mated, non_mated = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 60).round(1)  # rounded: with ties
    curve = det_curve(mated, non_mated)
    assert curve.fmr[0] == 0
    assert curve.fnmr[0] == 1
    assert curve.fmr[-1] == 1
    assert curve.fnmr[-1] == 0
    for threshold, fmr, fnmr in zip(curve.thresholds, curve.fmr, curve.fnmr, strict=True):
        assert fmr == pytest.approx(sum(score >= threshold for score in non_mated) / 60)
        assert fnmr == pytest.approx(sum(score < threshold for score in mated) / 40)


def test_best_threshold_is_in_the_middle_of_the_widest_best_interval() -> None:
    # Refusing 0.1 alone, or 0.1 to 0.3, are equally right (one error each); the second gap is wider.
    scores, same = np.array([0.1, 0.2, 0.3, 0.9]), np.array([False, True, False, True])
    assert best_threshold(scores, same) == pytest.approx(0.6)
    assert best_threshold(np.array([0.2, 0.4]), np.array([True, True])) < 0.2
    assert best_threshold(np.array([0.2, 0.4]), np.array([False, False])) > 0.4


def test_best_threshold_against_a_loop() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        same = rng.random(30) < 0.5
        scores = (rng.normal(0, 1, 30) + same).round(1)
        best = max(((scores >= t) == same).mean() for t in [*np.unique(scores), 10.0])
        assert ((scores >= best_threshold(scores, same)) == same).mean() == best


def test_folds_do_not_see_their_own_scores() -> None:
    # Fold 0 would want a threshold of 0.75, the others of 0.5: it is judged by theirs.
    scores = np.array([0.9, 0.6, 0.6, 0.4, 0.6, 0.4, 0.6, 0.4])
    same = np.array([True, False] * 4)
    outcome = folded_accuracy(scores, same, np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    assert outcome.accuracies == (0.5, 1.0, 1.0, 1.0)
    assert outcome.thresholds[0] == pytest.approx(0.5)
    assert outcome.mean == pytest.approx(7 / 8)
    assert outcome.std == pytest.approx(math.sqrt((0.375**2 + 3 * 0.125**2) / 4))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="one entry a comparison"):
        folded_accuracy(np.ones(3), np.ones(2, bool), np.ones(3, int))


def test_figures_have_the_documented_keys() -> None:
    same = np.array([True, False] * 20)
    figures = verification_figures(np.where(same, 0.8, 0.1), same, np.repeat(np.arange(10), 4))
    assert figures["accuracy"] == 1.0
    assert figures["std"] == 0.0
    assert figures["tar"] == {"1e-2": 1.0, "1e-3": 1.0}
    assert figures["eer"] == 0.0
    assert figures["pairs"] == 40
    assert figures["threshold"] == pytest.approx(0.45)
