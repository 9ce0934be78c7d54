"""Probes apart from references, and strangers: every comparison counted as a plain double loop counts it."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from facekd.evaluation.all_pairs import HISTOGRAM_BINS, operating_points
from facekd.evaluation.bootstrap import draw_weights, weighted_threshold
from facekd.evaluation.probe_sets import Design, WeighedPairs, bootstrap_rates, compare_sets


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def data() -> dict[str, tuple[np.ndarray, list[str]]]:
    rng = np.random.default_rng(0)
    centres = {name: rng.normal(size=6) for name in "abcdefgh"}

    def crops(names: str) -> tuple[np.ndarray, list[str]]:
        return unit(np.stack([centres[name] + rng.normal(size=6) for name in names])), list(names)

    return {
        "references": crops("aaabbbccddddee"),
        "probes": crops("abbcfffggh"),  # f, g and h are not enrolled
        "strangers": (unit(rng.normal(size=(9, 6))), []),
    }


def weights_of(pairs: list[tuple[str, str]]) -> np.ndarray:
    """What each comparison of two people counts: all pairs of people alike."""
    keys = [frozenset(pair) for pair in pairs]
    each = Counter(keys)
    return np.array([1 / each[key] for key in keys])


def brute(references, probes, strangers):
    """Scores of mated and non-mated comparisons, each non-mated one with its two people."""
    rows, names = references
    pairs = [(i, rows[j], names[j]) for i in range(len(rows)) for j in range(i)]
    if probes is not None:
        pairs = [(i, row, name) for i in range(len(rows)) for row, name in zip(*probes, strict=True)]
    if strangers is not None:
        pairs += [(i, row, f"s{k}") for i in range(len(rows)) for k, row in enumerate(strangers)]
    found = [(float(rows[i] @ row), names[i], name) for i, row, name in pairs]
    return [s for s, a, b in found if a == b], [(s, a, b) for s, a, b in found if a != b]


@pytest.mark.parametrize("with_probes", [False, True])
@pytest.mark.parametrize("with_strangers", [False, True])
@pytest.mark.parametrize("chunk", [3, 100])
def test_every_comparison_is_made_once(data, with_probes, with_strangers, chunk) -> None:
    probes = data["probes"] if with_probes else None
    strangers = data["strangers"][0] if with_strangers else None
    pairs, design = compare_sets(
        *data["references"], *(probes or (None, ())), strangers=strangers, max_far=0.3, chunk=chunk
    )
    mated, non_mated = brute(data["references"], probes, strangers)
    assert np.sort(pairs.mated.scores) == pytest.approx(np.sort(mated), abs=1e-6)
    assert pairs.non_mated == len(non_mated) == pairs.histogram.sum()
    scores, weights = np.array([score for score, _, _ in non_mated]), weights_of([(a, b) for _, a, b in non_mated])
    assert design.weight(np.ones(len(design.probes))) == pytest.approx(weights.sum())
    assert pairs.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    edges = np.linspace(-1, 1, 21) + 1e-7  # no score lies so near to an edge
    shares = np.histogram(scores, edges, weights=weights)[0] / weights.sum()
    assert pairs.shares.reshape(20, -1).sum(axis=1) == pytest.approx(shares)
    # All of the highest are kept, and enough for a rate of 0.3 by weight; the next lower bin or two, not everything.
    kept = np.sort(pairs.impostors.scores)
    assert kept == pytest.approx(np.sort(scores)[-len(kept) :], abs=1e-6)
    assert weights[scores > kept[0] - 1e-6].sum() > 0.3 * weights.sum()
    assert weights[scores > kept[0] + 3e-5].sum() <= 0.3 * weights.sum() + 1e-9
    stack = np.concatenate(
        [part for part in (data["references"][0], probes and probes[0], strangers) if part is not None]
    )
    top = pairs.impostors
    assert top.scores == pytest.approx((stack[top.first] * stack[top.second]).sum(axis=1), abs=1e-6)
    assert (pairs.people[top.first] != pairs.people[top.second]).all()


def test_a_changed_version_is_not_compared_with_its_own_original(data) -> None:
    rows, names = data["references"]
    changed = unit(rows + 0.3)
    ours, _ = compare_sets(rows, names, changed, names, own_versions=True, max_far=0.3)
    theirs = [(float(rows[i] @ changed[j]), i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
    non_mated = [score for score, i, j in theirs if names[i] != names[j]]
    assert np.sort(ours.mated.scores) == pytest.approx(
        np.sort([score for score, i, j in theirs if names[i] == names[j]]), abs=1e-6
    )
    assert ours.non_mated == len(non_mated)
    products = rows @ changed.T
    others = products[np.array(names)[:, None] != np.array(names)[None, :]]
    bins = np.clip(((others + 1) * (HISTOGRAM_BINS / 2)).astype(np.int64), 0, HISTOGRAM_BINS - 1)
    assert (ours.histogram == np.bincount(bins, minlength=HISTOGRAM_BINS)).all()


def test_a_design_weighs_pairs_of_people_as_copies_of_people_would(data) -> None:
    _, design = compare_sets(*data["references"], *data["probes"], strangers=data["strangers"][0])
    _, non_mated = brute(data["references"], data["probes"], data["strangers"][0])
    names = [*"abcdefgh", *(f"s{k}" for k in range(9))]
    weights = np.random.default_rng(1).integers(0, 3, len(names)).astype(float)
    weight = dict(zip(names, weights, strict=True))
    each = Counter(frozenset((a, b)) for _, a, b in non_mated)
    assert design.weight(weights) == pytest.approx(sum(weight[a] * weight[b] for a, b in each))
    assert design.without_each() == pytest.approx([sum(name not in couple for couple in each) for name in names])
    numbers = np.arange(len(names))
    table = design.comparisons(numbers[:, None], numbers)
    wanted = [[each[frozenset((a, b))] if a != b else table[i, i] for b in names] for i, a in enumerate(names)]
    assert table.tolist() == wanted


def test_the_designs_of_labelled_crops(data) -> None:
    rows, names = data["references"]
    pairs, once = compare_sets(rows, names, max_far=0.3)
    both_orders, twice = compare_sets(rows, names, rows, names, own_versions=True, max_far=0.3)
    assert once.weight(np.ones(5)) == twice.weight(np.ones(5)) == 10
    assert both_orders.non_mated == 2 * pairs.non_mated
    first, second = np.triu_indices(5, 1)
    assert twice.comparisons(first, second).tolist() == (2 * once.comparisons(first, second)).tolist()
    assert both_orders.shares == pytest.approx(pairs.shares)


def test_no_more_is_kept_than_the_bound_allows() -> None:
    """Two much-photographed people are alike: their comparisons alone are more than the rate's share by four."""
    rng = np.random.default_rng(8)
    alike = unit(np.eye(16)[0] + 0.05 * rng.normal(size=(160, 16)))
    rows = np.concatenate([alike, unit(rng.normal(size=(60, 16)))])
    names = [*["a"] * 80, *["b"] * 80, *(f"p{k // 2}" for k in range(60))]
    pairs, design = compare_sets(rows, names, max_far=0.05)
    total = design.weight(np.ones(len(design.probes)))
    weights = 1 / design.comparisons(pairs.people[pairs.impostors.first], pairs.people[pairs.impostors.second])
    assert len(pairs.impostors.scores) == pytest.approx(4 * 0.05 * pairs.non_mated, rel=0.01)
    assert weights.sum() < 1 < 0.05 * total


def test_intervals_hold_the_rate_and_grow_where_few_people_make_the_false_matches() -> None:
    rng = np.random.default_rng(2)
    rows = unit(rng.normal(size=(40, 8)).repeat(5, axis=0) + 0.5 * rng.normal(size=(200, 8)))
    names = [f"p{k // 5}" for k in range(200)]
    twins = rows.copy()
    twins[5:10] = unit(rows[:5] + 0.1 * rng.normal(size=(5, 8)))  # the second person looks like the first
    widths = []
    for embeddings in (rows, twins):
        pairs, design = compare_sets(embeddings, names, max_far=0.2)
        (point,) = operating_points(pairs, [0.003])
        (interval,) = bootstrap_rates(pairs, design, [point.threshold], np.random.default_rng(0))
        assert 0 <= interval.low < 0.003 < interval.high
        widths.append(interval.high)
        again = bootstrap_rates(pairs, design, [point.threshold], np.random.default_rng(0))
        assert again == [interval]
    assert widths[1] > widths[0]


def test_named_people_and_strangers_are_drawn_apart() -> None:
    """Against a plain loop over the comparisons, with the same draws: three of the three, two hundred of the others."""
    from facekd.evaluation.probe_sets import _accelerations, _corrected

    rng = np.random.default_rng(6)
    references, owners = unit(rng.normal(size=(12, 5))), np.repeat(np.arange(3), 4)
    strangers = unit(rng.normal(size=(200, 5)))
    pairs, design = compare_sets(references, [f"p{k}" for k in owners], strangers=strangers, max_far=0.5)
    threshold = float(np.quantile(references @ strangers.T, 0.8))
    one, other, cosines = [], [], []
    for row, person in enumerate(owners):
        others = [(owners[k], references[k]) for k in range(row)] + [(3 + k, s) for k, s in enumerate(strangers)]
        for second, embedding in others:
            if person != second:
                one.append(person)
                other.append(second)
                cosines.append(float(references[row] @ embedding))
    first, second, accepted = np.array(one), np.array(other), np.array(cosines) >= threshold

    alike = weights_of([(str(a), str(b)) for a, b in zip(one, other, strict=True)])

    def rate(weights: np.ndarray) -> float:
        each = weights[first] * weights[second] * alike
        return float(each[accepted].sum() / each.sum())

    draws, ones = np.random.default_rng(0), np.ones(203)
    replicated = np.array(
        [rate(np.concatenate([draw_weights(3, draws), draw_weights(200, draws)])) for _ in range(100)]
    )
    without = np.array([rate(ones - (np.arange(203) == person)) for person in range(203)])[:, None]
    wanted = _corrected(replicated, rate(ones), float(_accelerations(without, [3, 200])[0]), 0.025)
    (got,) = bootstrap_rates(pairs, design, [threshold], np.random.default_rng(0), replicates=100)
    assert (got.low, got.high) == pytest.approx(wanted, rel=1e-6)
    assert got.low < rate(ones) < got.high


def test_the_correction_is_that_of_scipy() -> None:
    """One sample of people with one number each: the rate of marked pairs is then no mean, but BCa is defined alike."""
    from facekd.evaluation.probe_sets import _accelerations, _corrected

    rng = np.random.default_rng(3)
    sample = rng.exponential(size=30)
    ours = rng.choice(sample, (20_000, 30)).mean(axis=1)
    without = np.array([np.delete(sample, k).mean() for k in range(30)])[:, None]
    low, high = _corrected(ours, sample.mean(), float(_accelerations(without, [30])[0]), 0.025)
    wanted = stats.bootstrap((sample,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(4))
    assert (low, high) == pytest.approx(tuple(wanted.confidence_interval), rel=0.02)


def test_what_does_not_fit_is_refused(data) -> None:
    rows, names = data["references"]
    with pytest.raises(ValueError, match="names"):
        compare_sets(rows, names[:-1])
    with pytest.raises(ValueError, match="length"):
        compare_sets(2 * rows, names)
    pairs, design = compare_sets(rows[:3], names[:3], max_far=0.5)
    with pytest.raises(ValueError, match="two"):
        bootstrap_rates(pairs, design, [0.5], np.random.default_rng(0))


def impostors_of(pairs: WeighedPairs, design: Design) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The kept impostors by falling cosine: cosines, both people, and what each counts."""
    order = np.argsort(-pairs.impostors.scores, kind="stable")
    first, second = pairs.people[pairs.impostors.first[order]], pairs.people[pairs.impostors.second[order]]
    return pairs.impostors.scores[order], first, second, 1 / design.comparisons(first, second)


def plain_upper_end(pairs, design, threshold: float, rng: np.random.Generator, replicates: int) -> float:
    """The 97.5th percentile of a bootstrap over people, without any correction."""
    scores, first, second, each = impostors_of(pairs, design)
    accepted = scores >= threshold
    rates = []
    for _ in range(replicates):
        weights = draw_weights(len(design.within), rng)
        rates.append((weights[first] * weights[second] * each)[accepted].sum() / design.weight(weights))
    return float(np.quantile(rates, 0.975))


def test_the_corrected_upper_end_is_passed_less_often_by_other_people(shared_data) -> None:
    """Half of the people of `val` calibrate, the other half judges. Two samples alike allow 8 % above a 97.5 % end."""
    with (shared_data / "faces" / "faces.csv").open(newline="") as file:
        rows = [(k, row["identity"]) for k, row in enumerate(csv.DictReader(file)) if row["split"] == "val"]
    people = sorted({name for _, name in rows if name})
    rng = np.random.default_rng(0)
    chosen = {name: rng.permutation([k for k, owner in rows if owner == name])[:60] for name in people}
    stored = np.load(shared_data / "faces" / "teacher_sface.npy")

    def crops_of(half: np.ndarray) -> tuple[np.ndarray, list[str]]:
        owned = [(k, name) for name in half for k in chosen[name]]
        return unit(stored[[k for k, _ in owned]].astype(np.float32)), [str(name) for _, name in owned]

    passed = np.zeros(2)
    draws = 60
    for _ in range(draws):
        order = rng.permutation(people)
        calibrating, judging = (crops_of(order[:20]), crops_of(order[20:]))
        pairs, design = compare_sets(*calibrating, max_far=0.002)
        scores, _, _, weights = impostors_of(pairs, design)
        threshold = weighted_threshold(scores, weights, 0.001, design.weight(np.ones(20)))
        ends = [
            plain_upper_end(pairs, design, threshold, np.random.default_rng(0), 200),
            bootstrap_rates(pairs, design, [threshold], np.random.default_rng(0), 200)[0].high,
        ]
        others, judged = compare_sets(*judging, max_far=0.05)
        scores, _, _, weights = impostors_of(others, judged)
        seen = weights[scores >= threshold].sum() / judged.weight(np.ones(20))
        passed += seen > np.array(ends)
    plain, corrected = passed / draws
    assert corrected <= 0.1 < plain  # 0.07 and 0.12
