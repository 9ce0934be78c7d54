"""Screening on made-up embeddings whose faults are known; balanced draws."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.recognition.data import screening
from facekd.recognition.data.balanced import BalancedSampler
from facekd.recognition.data.screening import group_people, near_duplicates, person_medians, screen_labels


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def crowd(people: int, each: int, spread: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (people * each, 64) about random centres, and whose they are; in a person 1 / (1 + spread²) alike."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(people, 64)))
    labels = np.repeat(np.arange(people), each)
    return unit(centres[labels] + spread * unit(rng.normal(size=(len(labels), 64)))), labels


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "BLOCK", 7)  # so that several blocks meet in small sets


@pytest.mark.usefixtures("small_blocks")
def test_crops_under_the_wrong_name_are_found_and_their_own_person_is_named() -> None:
    embeddings, truth = crowd(6, 10)
    labels = truth.copy()
    labels[[3, 25]] = [4, 0]  # two mix-ups
    labels[7] = -1
    embeddings[44] = unit(np.random.default_rng(9).normal(size=(1, 64)))[0]  # a stranger filed under person 4
    found = screen_labels(embeddings, labels, threshold_cosine=0.45)
    assert np.flatnonzero(found.suspicious).tolist() == [3, 25, 44]
    assert found.nearest[[3, 25]].tolist() == [0, 2]
    assert found.nearest[7] == 0  # nobody's crop is suspicious of nothing, but has a nearest person
    assert np.isnan(found.similarity[7])
    people, medians = person_medians(embeddings, labels)
    assert people.tolist() == list(range(6))
    np.testing.assert_allclose(found.similarity[20], embeddings[20] @ medians[2], rtol=1e-5)


def test_somebody_elses_likeness_is_suspicious_even_above_the_threshold() -> None:
    embeddings = unit(np.array([[1, 0.0], [1, 0.1], [0.6, 0.8], [0, 1], [0.05, 1], [0, 1]]))
    labels = np.array([0, 0, 0, 1, 1, 1])
    wide = screen_labels(embeddings, labels, threshold_cosine=0.3, margin_cosine=0.05)
    assert wide.suspicious.tolist() == [False, False, True, False, False, False]
    assert not screen_labels(embeddings, labels, threshold_cosine=0.3, margin_cosine=0.9).suspicious.any()


def test_a_median_stays_with_the_majority() -> None:
    embeddings = unit(np.array([[1, 0, 0], [1, 0.1, 0], [1, -0.1, 0], [0, 0, 1], [0, 0.1, 1]]))
    median = person_medians(embeddings, np.zeros(5, np.int64))[1][0]
    mean = unit(embeddings.mean(0, keepdims=True))[0]
    assert median[0] > 0.99 > 0.9 > mean[0]


@pytest.mark.usefixtures("small_blocks")
def test_copies_are_grouped_under_the_first() -> None:
    embeddings, _ = crowd(5, 4)
    rng = np.random.default_rng(1)
    copies = unit(embeddings[[2, 2, 11]] + 0.05 * unit(rng.normal(size=(3, 64))))
    first = near_duplicates(np.concatenate([embeddings, copies]))
    assert first[:20].tolist() == list(range(20))
    assert first[20:].tolist() == [2, 2, 11]
    # a copy of a copy joins the same group
    chain = unit(np.array([[1, 0.0], [1, 0.2], [1, 0.4], [0, 1]]))
    assert near_duplicates(chain, threshold_cosine=0.975).tolist() == [0, 0, 0, 3]


@pytest.mark.usefixtures("small_blocks")
def test_unnamed_crops_become_people() -> None:
    embeddings, truth = crowd(8, 6)
    strangers = unit(np.random.default_rng(5).normal(size=(10, 64)))
    shuffled = np.random.default_rng(2).permutation(58)
    everything = np.concatenate([embeddings, strangers])[shuffled]
    whose = np.concatenate([truth, np.full(10, -1)])[shuffled]
    found = group_people(everything, threshold_cosine=0.55)
    assert set(found[whose == -1].tolist()) == {-1}
    for person in range(8):
        numbers = set(found[whose == person].tolist()) - {-1}
        assert len(numbers) == 1  # nobody is split, and no two are joined:
        assert set(whose[found == numbers.pop()].tolist()) == {person}
    assert sorted(set(found.tolist()) - {-1}) == list(range(8))


def test_small_groups_and_people_who_are_known_already_are_left_out() -> None:
    embeddings, truth = crowd(4, 6)
    kept = np.flatnonzero((truth != 3) | (np.arange(24) % 6 < 3))  # person 3 has three crops
    medians = person_medians(embeddings, truth)[1]
    found = group_people(embeddings[kept], threshold_cosine=0.55, known=medians[1:2])
    assert set(truth[kept][found >= 0].tolist()) == {0, 2}


def test_a_chain_of_look_alikes_is_not_one_person() -> None:
    angles = np.deg2rad(np.arange(0, 181, 10))
    chain = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    found = group_people(chain, threshold_cosine=0.9, min_crops=3)  # neighbours are 0.985 alike, the ends opposed
    members = chain[found >= 0]
    assert 3 <= len(members) < len(chain)
    assert (members @ members.T).min() > 0.6


@pytest.mark.parametrize("count", [0, 1])
def test_sets_too_small_to_compare(count: int) -> None:
    rows = np.ones((count, 1), np.float32)
    assert near_duplicates(rows).tolist() == list(range(count))
    assert group_people(rows, threshold_cosine=0.5).tolist() == [-1] * count
    assert screen_labels(rows, np.full(count, -1), threshold_cosine=0.5).suspicious.tolist() == [False] * count


def test_embeddings_that_are_not_unit_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2\.000"):
        near_duplicates(np.array([[2.0, 0.0]], np.float32))
    with pytest.raises(ValueError, match="labels"):
        screen_labels(np.ones((2, 1), np.float32), np.zeros(3, np.int64), threshold_cosine=0.5)


def test_balanced_draws_take_people_alike() -> None:
    labels = np.array([0] * 100 + [1] * 2 + [-1] * 50 + [2] * 5)
    sampler = BalancedSampler(labels, 3)
    rng = np.random.default_rng(0)
    drawn = [sampler.draw(9, rng) for _ in range(50)]
    for batch in drawn:
        assert np.bincount(labels[batch]).tolist() == [3, 3, 3]
        assert (labels[batch].reshape(3, 3) == labels[batch].reshape(3, 3)[:, :1]).all()
        assert len(set(batch[labels[batch] == 0].tolist())) == 3  # without repeats where there are enough
    assert len({int(i) for batch in drawn for i in batch if labels[i] == 0}) > 50
    assert len(sampler.draw(7, rng)) == 7
    assert len(sampler.draw(0, rng)) == 0
    assert np.bincount(labels[sampler.draw(18, rng)]).tolist() == [6, 6, 6]
    repeat = [sampler.draw(9, np.random.default_rng(4)) for _ in range(2)]
    np.testing.assert_array_equal(*repeat)


def test_balanced_draws_without_people_are_refused() -> None:
    with pytest.raises(ValueError, match="labelled"):
        BalancedSampler(np.full(3, -1), 2)
    with pytest.raises(ValueError, match="got 0"):
        BalancedSampler(np.zeros(3, np.int64), 0)


def test_some_of_many_people_are_drawn_alike() -> None:
    sampler = BalancedSampler(np.repeat(np.arange(400), 3), 2)
    drawn = sampler.draw(50, np.random.default_rng(1))
    assert np.unique(drawn // 3, return_counts=True)[1].tolist() == [2] * 25
    np.testing.assert_array_equal(drawn, sampler.draw(50, np.random.default_rng(1)))
    everybody = sampler.draw(2000, np.random.default_rng(1)) // 3
    assert np.bincount(everybody).min() >= 4  # nobody a third time before everybody twice
    seen = np.bincount(np.concatenate([sampler.draw(50, np.random.default_rng(k)) for k in range(200)]) // 3)
    assert seen.min() > 5
