"""All pairs against a double loop, whatever the chunk; the bootstrap over people."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from facekd.evaluation.all_pairs import (
    all_pairs_det_curve,
    all_pairs_equal_error_rate,
    compare_all,
    crop_figures,
    hardest_pairs,
    operating_points,
)
from facekd.evaluation.bootstrap import (
    bootstrap_pair_protocol,
    bootstrap_tar,
    weighted_threshold,
)
from facekd.evaluation.probe_sets import bootstrap_rates, compare_sets
from facekd.evaluation.verification import equal_error_rate, folded_accuracy, tar_at_far


def faces(seed: int = 0, people: int = 8, each: int = 6, noise: float = 0.8) -> tuple[np.ndarray, list[str]]:
    """Embeddings around one direction a person, and a few crops of nobody known."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, 16))
    rows = np.repeat(centres, each, axis=0) + noise * rng.normal(size=(people * each, 16))
    rows = np.concatenate([rows, rng.normal(size=(5, 16))])
    names = [f"p{i // each}" for i in range(people * each)] + [""] * 5
    order = rng.permutation(len(rows))
    rows = rows[order] / np.linalg.norm(rows[order], axis=1, keepdims=True)
    return rows.astype(np.float32), [names[i] for i in order]


def labelled(embeddings: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Without the crops of nobody known."""
    known = [i for i, name in enumerate(names) if name]
    return embeddings[known], [names[i] for i in known]


def by_loop(embeddings: np.ndarray, names: list[str]) -> tuple[dict, dict]:
    mated, non_mated = {}, {}
    for i, j in combinations(range(len(names)), 2):
        if names[i] and names[j]:
            (mated if names[i] == names[j] else non_mated)[i, j] = float(embeddings[i] @ embeddings[j])
    return mated, non_mated


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_against_a_double_loop(chunk: int) -> None:
    embeddings, names = faces()
    mated, non_mated = by_loop(embeddings, names)
    pairs = compare_all(embeddings, names, max_far=0.05, chunk=chunk)
    assert pairs.non_mated == len(non_mated) == pairs.histogram.sum()
    got = dict(zip(zip(pairs.mated.first, pairs.mated.second, strict=True), pairs.mated.scores, strict=True))
    assert got.keys() == mated.keys()
    for pair, score in got.items():
        assert score == pytest.approx(mated[pair], abs=1e-6)
    highest = sorted(non_mated.values())[-(int(0.05 * len(non_mated)) + 1) :]
    np.testing.assert_allclose(np.sort(pairs.impostors.scores), highest, atol=1e-6)
    for i, j, score in zip(pairs.impostors.first, pairs.impostors.second, pairs.impostors.scores, strict=True):
        assert non_mated[i, j] == pytest.approx(score, abs=1e-6)
    everything = np.array(list(mated.values())), np.array(list(non_mated.values()))
    for point in operating_points(pairs, (0.05, 0.01)):
        wanted = tar_at_far(*everything, point.far)
        assert point.tar == wanted.tar
        assert point.false_matches == wanted.false_matches
        assert point.threshold == pytest.approx(wanted.threshold, abs=1e-6)
    assert all_pairs_equal_error_rate(pairs) == pytest.approx(equal_error_rate(*everything), abs=1e-3)


def test_figures_have_the_documented_keys() -> None:
    embeddings, names = faces()
    figures = crop_figures(compare_all(embeddings, names), (1e-2,))
    assert figures["identities"] == 8
    assert figures["crops"] == 48
    assert figures["pairs"] == {"mated": 8 * 15, "non_mated": 48 * 47 // 2 - 8 * 15}
    assert set(figures["tar"]) == set(figures["thresholds"]) == {"1e-2"}


def test_the_det_curve_against_all_scores_at_once() -> None:
    embeddings, names = faces()
    curve = all_pairs_det_curve(compare_all(embeddings, names))
    mated, non_mated = (np.array(list(kind.values())) for kind in by_loop(embeddings, names))
    assert (curve.mated, curve.non_mated) == (len(mated), len(non_mated))
    for fmr in (0.01, 0.1, 0.5):
        point = int(np.searchsorted(curve.fmr, fmr))
        threshold = curve.thresholds[point]
        # The histogram is 1e-5 of cosine wide: a score at its edge may fall on either side.
        assert curve.fmr[point] == pytest.approx((non_mated >= threshold).mean(), abs=2 / len(non_mated))
        assert curve.fnmr[point] == pytest.approx((mated < threshold).mean(), abs=2 / len(mated))
    with pytest.raises(ValueError, match="needs both"):
        all_pairs_det_curve(compare_all(embeddings, [""] * len(names)))


def test_the_hardest_pairs_show_two_people_once() -> None:
    embeddings, names = faces()
    pairs = compare_all(embeddings, names, max_far=1.0)
    false_matches, false_non_matches = hardest_pairs(pairs, 5)
    worst: dict[frozenset[str], float] = {}
    least: dict[str, float] = {}
    for i, j in combinations([k for k, name in enumerate(names) if name], 2):
        score = float(embeddings[i] @ embeddings[j])
        if names[i] == names[j]:
            least[names[i]] = min(least.get(names[i], 2.0), score)
        else:
            people = frozenset((names[i], names[j]))
            worst[people] = max(worst.get(people, -2.0), score)
    np.testing.assert_allclose(false_matches.scores, sorted(worst.values(), reverse=True)[:5], atol=1e-6)
    np.testing.assert_allclose(false_non_matches.scores, sorted(least.values())[:5], atol=1e-6)
    assert [names[k] for k in false_non_matches.first] == [names[k] for k in false_non_matches.second]
    assert all(names[i] != names[j] for i, j in zip(false_matches.first, false_matches.second, strict=True))


@pytest.mark.parametrize(("embeddings", "names"), [(np.empty((0, 4)), []), (np.eye(4), [""] * 4)])
def test_no_labelled_crops(embeddings: np.ndarray, names: list[str]) -> None:
    pairs = compare_all(embeddings, names)
    assert (pairs.non_mated, len(pairs.mated.scores), len(pairs.impostors.scores)) == (0, 0, 0)
    with pytest.raises(ValueError, match="no non-mated"):
        operating_points(pairs)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="normalise"):
        compare_all(2 * np.eye(3), ["a", "b", "c"])
    with pytest.raises(ValueError, match="wanted one each"):
        compare_all(np.eye(3), ["a"])


def test_weighted_threshold_agrees_with_repeating_the_scores() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        scores = np.sort(rng.integers(0, 8, 12) / 8)[::-1]
        weights = rng.integers(0, 3, 12)
        repeated = np.repeat(scores, weights)
        far = float(rng.uniform(0.01, 1))
        threshold = weighted_threshold(scores, weights.astype(float), far, float(weights.sum()))
        assert (repeated >= threshold).sum() <= far * len(repeated) + 1e-9
        lower = scores[scores < threshold]
        if len(lower):
            assert (repeated >= lower.max()).sum() > far * len(repeated)
    assert weighted_threshold(np.empty(0), np.empty(0), 0.1, 0.0) == -np.inf


def test_interval_holds_the_estimate_and_repeats() -> None:
    embeddings, names = faces(people=20)
    pairs = compare_all(embeddings, names, max_far=0.2)
    (point,) = operating_points(pairs, (0.05,))
    (interval,) = bootstrap_tar(pairs, (0.05,), np.random.default_rng(0))
    (again,) = bootstrap_tar(pairs, (0.05,), np.random.default_rng(0))
    assert interval == again
    assert interval.low < point.tar < interval.high
    with pytest.raises(ValueError, match="at least two"):
        bootstrap_tar(compare_all(np.eye(2), ["a", "a"]), (0.1,), np.random.default_rng(0))


def test_people_are_drawn_not_comparisons() -> None:
    # Half of the people match always, half never: the interval must be as wide as that of so few people.
    people, each = 10, 8
    names = [f"p{i // each}" for i in range(people * each)]
    embeddings = np.zeros((people * each, 200), np.float32)
    for row in range(people * each):
        person = row // each
        embeddings[row, person if person < 5 else 50 + row] = 1
    (interval,) = bootstrap_tar(compare_all(embeddings, names, 0.5), (0.01,), np.random.default_rng(0))
    assert interval.low <= 0.25
    assert interval.high >= 0.65


@pytest.mark.parametrize("chunk", [3, 1000])
def test_probes_against_a_double_loop(chunk: int) -> None:
    references, names = labelled(*faces(seed=1))
    rng = np.random.default_rng(5)
    probes = references + 0.2 * rng.normal(size=references.shape).astype(np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    mated, non_mated = {}, {}
    for i in range(len(names)):
        for j in range(len(names)):
            if i != j:
                (mated if names[i] == names[j] else non_mated)[i, j] = float(references[i] @ probes[j])
    pairs, _ = compare_sets(references, names, probes, names, own_versions=True, max_far=0.1, chunk=chunk)
    assert pairs.non_mated == len(non_mated) == pairs.histogram.sum()
    rows = zip(pairs.mated.first, pairs.mated.second - len(names), strict=True)  # probes count on after references
    got = dict(zip(rows, pairs.mated.scores, strict=True))
    assert got.keys() == mated.keys()
    assert all(score == pytest.approx(mated[pair], abs=1e-6) for pair, score in got.items())
    # People have as many crops each, so that the highest by weight are the highest by number.
    highest = sorted(non_mated.values())[-len(pairs.impostors.scores) :]
    assert int(0.1 * len(non_mated)) < len(highest) < 0.12 * len(non_mated)
    np.testing.assert_allclose(np.sort(pairs.impostors.scores), highest, atol=1e-6)
    with pytest.raises(ValueError, match="names"):
        compare_sets(references, names, probes[:-1], names, own_versions=True)


@pytest.mark.parametrize("both_orders", [False, True])
def test_interval_of_the_false_match_rate(both_orders: bool) -> None:
    embeddings, names = labelled(*faces(people=20))
    probes = (embeddings, names) if both_orders else ()
    compared, design = compare_sets(embeddings, names, *probes, own_versions=both_orders, max_far=0.2)
    points = operating_points(compared, (0.1, 0.02))
    thresholds = [point.threshold for point in points]
    intervals = bootstrap_rates(compared, design, thresholds, np.random.default_rng(0))
    for point, interval in zip(points, intervals, strict=True):
        assert interval.low < point.false_matches / compared.non_mated < interval.high
        assert interval.high < 5 * point.far


def test_intervals_of_a_pair_protocol() -> None:
    rng = np.random.default_rng(0)
    same = np.tile([True, False], 300)
    scores = np.where(same, rng.normal(0.6, 0.2, 600), rng.normal(0.0, 0.2, 600))
    folds = np.repeat(np.arange(10), 60)
    first = [f"p{k // 4}" for k in range(600)]
    second = [a if mated else f"p{(k // 4 + 7) % 150}" for k, (a, mated) in enumerate(zip(first, same, strict=True))]
    intervals = bootstrap_pair_protocol(scores, same, folds, (first, second), (1e-2,), np.random.default_rng(1))
    accuracy = folded_accuracy(scores, same, folds).mean
    assert intervals["accuracy"].low < accuracy < intervals["accuracy"].high
    tar = tar_at_far(scores[same], scores[~same], 1e-2).tar
    assert intervals["1e-2"].low < tar < intervals["1e-2"].high
    # With all pairs of one person alike, the interval is that of few people, not that of many pairs.
    few = [f"p{k // 60}" for k in range(600)]
    outcome = np.where(same, np.repeat(np.arange(10) % 2, 60) * 1.0, 0.5)
    wide = bootstrap_pair_protocol(outcome, same, folds, (few, few), (1e-2,), np.random.default_rng(1))["1e-2"]
    assert wide.high - wide.low > 0.4
    with pytest.raises(ValueError, match="both kinds"):
        bootstrap_pair_protocol(scores[same], same[same], folds[same], (first, first), (1e-2,), rng)
