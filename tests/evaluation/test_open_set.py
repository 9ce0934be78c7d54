"""Open-set identification: counted as a slow loop over single probes counts it."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.evaluation.open_set import Stated, draw_trial, open_set_figures


def faces(people: int, each: int, nameless: int = 0, noise: float = 1.2) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(3)
    centres = np.repeat(rng.normal(size=(people, 12)), each, axis=0)
    rows = np.concatenate([centres + noise * rng.normal(size=centres.shape), rng.normal(size=(nameless, 12))])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), [f"p{row // each}" for row in range(people * each)] + [""] * nameless


def fixed(threshold: float, upper: float = 1.0):
    return lambda templates: Stated(threshold, upper, upper, extrapolated=False)


def test_half_of_the_people_are_enrolled_and_the_others_are_impostors() -> None:
    _, names = faces(11, 5, nameless=7)
    names = [*names, "alone"]  # one photograph: a reference or an impostor, never a mated probe
    filling = np.arange(55, 62)
    rng = np.random.default_rng(0)
    for _ in range(20):
        trial = draw_trial(names, 3, rng, filling)
        of = np.array(names, dtype=object)
        enrolled = len(set(of[trial.templates])) - 1
        assert enrolled == 6
        assert set(of[trial.templates]) - {""} == set(names) - {""} - set(of[trial.impostors])
        assert len(set(trial.impostors)) == sum(name in set(of[trial.impostors]) for name in names)
        assert not set(trial.templates) & set(trial.mated)
        assert np.array_equal(np.sort(trial.templates[-7:]), filling)
        assert (np.diff(trial.owners) >= 0).all()
        own = {number: of[row] for number, row in zip(trial.owners, trial.templates, strict=True)}
        assert all(own[number] == of[row] for number, row in zip(trial.mated_owners, trial.mated, strict=True))
        counts = np.unique(trial.owners, return_counts=True)[1]
        assert set(counts[:enrolled]) <= {1, 3}
        assert "alone" not in set(of[trial.mated])


def test_rates_are_those_of_a_loop_over_single_probes() -> None:
    embeddings, names = faces(12, 6, nameless=30)
    filling = np.arange(72, 102)
    threshold, margin, draws = 0.6, 0.05, 4
    figures = open_set_figures(
        embeddings, names, [5, 20, 5000], fixed(threshold), min_margin=margin, draws=draws, seed=1, filling=filling
    )
    assert [row.templates for row in figures] == [5, 20, 48]  # 6 people with 3 photographs, and 30 without a name
    rng = np.random.default_rng(1)
    trials = [draw_trial(names, 3, rng, filling) for _ in range(draws)]
    for row in figures:
        found, missed, wrong = [], [], []
        for trial in trials:
            templates, owners = trial.templates[: row.templates], trial.owners[: row.templates]

            def ask(probe: int) -> tuple[bool, int | None]:
                best: dict[int, float] = {}
                for template, owner in zip(templates, owners, strict=True):  # noqa: B023
                    best[owner] = max(best.get(owner, -1.0), float(embeddings[probe] @ embeddings[template]))
                people = sorted(best, key=lambda owner: -best[owner])
                if best[people[0]] < threshold:
                    return False, None
                ambiguous = len(people) > 1 and best[people[0]] - best[people[1]] < margin
                return True, None if ambiguous else people[0]

            found.append(np.mean([ask(probe)[0] for probe in trial.impostors]))
            mated = [(ask(p)[1], o) for p, o in zip(trial.mated, trial.mated_owners, strict=True) if o in owners]
            missed.append(np.mean([answer != owner for answer, owner in mated]))
            wrong.append(np.mean([answer not in (owner, None) for answer, owner in mated]))
        assert row.fpir == pytest.approx(np.mean(found))
        assert row.fpir_highest == pytest.approx(max(found))
        assert row.fnir == pytest.approx(np.mean(missed))
        assert row.misidentified == pytest.approx(np.mean(wrong))
    assert 0 < figures[0].fpir < figures[2].fpir < 1
    assert 0 < figures[0].fnir < 1


def test_a_bound_is_kept_or_not() -> None:
    embeddings, names = faces(12, 6)
    kept, broken = (
        open_set_figures(embeddings, names, [], fixed(0.6, upper), min_margin=0.05)[0] for upper in (1.0, 0.0)
    )
    assert kept.kept
    assert not broken.kept
    assert broken.to_dict()["kept"] is False
    never = open_set_figures(embeddings, names, [], fixed(1.1), min_margin=0.05)[0]
    assert (never.fpir, never.fnir) == (0.0, 1.0)


def test_one_person_is_no_experiment() -> None:
    embeddings, names = faces(1, 4)
    with pytest.raises(DataError, match="at least two"):
        open_set_figures(embeddings, names, [], fixed(0.5), min_margin=0.05)


def test_means_count_as_the_photographs_that_they_are_made_of() -> None:
    embeddings, names = faces(12, 6)
    asked: dict[str, list[int]] = {}
    figures = {}
    for fusion in ("none", "instead", "beside"):

        def state(photographs: int, fusion: str = fusion) -> Stated:
            asked.setdefault(fusion, []).append(photographs)
            return Stated(0.6, 1.0, 1.0, extrapolated=False)

        (figures[fusion],) = open_set_figures(embeddings, names, [], state, min_margin=0.05, fusion=fusion)  # type: ignore[arg-type]
    assert asked == {"none": [18] * 20, "instead": [18] * 20, "beside": [36] * 20}
    assert figures["instead"].fnir < figures["none"].fnir  # a mean is nearer to the person
    assert figures["beside"].fpir >= max(figures["none"].fpir, figures["instead"].fpir)
    rng = np.random.default_rng(0)
    trials = [draw_trial(names, 3, rng) for _ in range(20)]
    shares = []
    for trial in trials:
        means = np.stack([embeddings[trial.templates[trial.owners == owner]].mean(axis=0) for owner in range(6)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        shares.append(((embeddings[trial.impostors] @ means.T).max(axis=1) >= 0.6).mean())
    assert figures["instead"].fpir == pytest.approx(np.mean(shares))


def test_only_people_of_several_photographs_have_means_and_draws_that_differ_are_averaged() -> None:
    embeddings, names = faces(13, 6, nameless=5)
    names[73:78] = [""] * 5  # one person has a single photograph: where that person is enrolled, there is a mean less
    told: list[int] = []

    def state(photographs: int) -> Stated:
        told.append(photographs)
        return Stated(photographs / 100, 0.3, None if photographs > 36 else 0.5, extrapolated=photographs > 36)

    filling = np.arange(78, 83)
    cut, whole = open_set_figures(embeddings, names, [4], state, min_margin=0.05, filling=filling, fusion="beside")
    assert told[::2] == [4 + 3] * 20  # of the second person one photograph is left, and no mean
    assert set(told[1::2]) == {21 + 5 * 3, 21 + 6 * 3}  # five or six means of three; five people without a name
    assert whole.threshold == pytest.approx(np.mean(told[1::2]) / 100)
    assert (cut.fpir_upper, cut.extrapolated) == (pytest.approx(0.5), False)
    assert (whole.fpir_stated, whole.fpir_upper, whole.extrapolated) == (pytest.approx(0.3), None, True)
