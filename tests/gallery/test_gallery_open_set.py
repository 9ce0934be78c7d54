"""What `--fpir` promises is kept on people whom the calibration never saw; `evaluate open-set` counts as galleries do.

Calibrated on `val`, judged on `test`, with the embeddings that came with the photographs (SFace, 128-d), so that no
model of ours is needed. Half of the labelled people are enrolled with three photographs each, the other half are the
impostors; the gallery is filled up with photographs of people without a name.
"""

from __future__ import annotations

import csv
from dataclasses import asdict

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.evaluation.calibrate import CALIBRATION_RATES, calibration_points
from facekd.evaluation.open_set import draw_trial
from facekd.evaluation.probe_sets import compare_sets
from facekd.gallery import NewTemplate
from facekd.gallery.calibration import Calibration, Curve, Point
from facekd.gallery.evaluate import People, calibrate_people, open_set_of, shows_labelled_person
from facekd.gallery.fusion import FUSIONS
from facekd.gallery.policy import EnrolmentPolicy

CONTRACT = "sface-2021dec---"
DRAWS = 2


@pytest.fixture(scope="module")
def people(shared_data):
    with (shared_data / "faces" / "faces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    embeddings = np.load(shared_data / "faces" / "teacher_sface.npy").astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.array([row["split"] for row in rows]), np.array([row["identity"] for row in rows]), embeddings


@pytest.fixture(scope="module")
def measured(people):
    split, identity, embeddings = people
    chosen = (split == "val") & (identity != "")
    pairs, design = compare_sets(embeddings[chosen], identity[chosen], max_far=0.01)
    found = calibration_points(pairs, design, CALIBRATION_RATES[2:], replicates=100)
    points = tuple(Point(**asdict(point)) for point in found)
    curve = Curve(points=points, people=40, pairs=pairs.non_mated)
    return Calibration(contract=CONTRACT, source="faces, val", unmasked=curve)


@pytest.mark.parametrize("size", [100, 1000])
def test_strangers_are_let_through_no_more_often_than_stated(people, measured, open_gallery, tmp_path, size):
    split, identity, embeddings = people
    labelled = np.flatnonzero((split == "test") & (identity != ""))
    names = np.unique(identity[labelled])
    # Some of the photographs without a name show somebody who has one: such a match would be right, not wrong.
    nameless = np.flatnonzero((split == "test") & (identity == ""))
    nameless = nameless[(embeddings[labelled] @ embeddings[nameless].T).max(axis=0) < 0.6]
    rng = np.random.default_rng(7)
    false_positives, upper, missed, wrong = [], [], [], []
    for draw in range(DRAWS):
        order = rng.permutation(names)
        enrolled, strangers = order[: len(order) // 2], order[len(order) // 2 :]
        gallery = open_gallery(tmp_path / f"{draw}.db", contract=CONTRACT, dimension=128, calibration=measured)
        mated = []
        for name in enrolled:
            rows = rng.permutation(labelled[identity[labelled] == name])
            gallery.enrol(str(name), list(embeddings[rows[:3]]))
            mated += [(str(name), row) for row in rows[3:]]
        filling = rng.permutation(nameless)[: size - len(gallery)]
        with gallery.store.writing():  # a thousand people in one transaction instead of a thousand
            for row in filling:
                number = gallery.store.add_person(f"nameless {row}", "")
                gallery.store.add_templates(number, [NewTemplate(embeddings[row])], "")
        assert len(gallery) == size
        probes = labelled[np.isin(identity[labelled], strangers)]
        decisions = gallery.identify_many(list(embeddings[probes]), fpir=0.01)
        false_positives.append(np.mean([decision.outcome != "nobody" for decision in decisions]))
        upper.append(decisions[0].fpir_upper)
        answers = gallery.identify_many([embeddings[row] for _, row in mated], fpir=0.01)
        pairs = list(zip(mated, answers, strict=True))
        missed.append(np.mean([answer.person != name for (name, _), answer in pairs]))
        wrong.append(np.mean([answer.person not in (name, None) for (name, _), answer in pairs]))
    assert np.mean(false_positives) <= min(upper)
    assert np.mean(missed) < 0.25  # the bound is not bought by knowing nobody
    assert np.mean(wrong) < 0.01


def _crowd(seed, count, each, nameless=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 12)).repeat(each, axis=0)
    rows = np.concatenate([centres + 0.6 * rng.normal(size=centres.shape), rng.normal(size=(nameless, 12))])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return People(rows.astype(np.float32), [f"p{k // each}" for k in range(count * each)] + [""] * nameless)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("size", [16, 17, 33])  # of the last person one photograph of three, two, and everybody
def test_the_evaluation_counts_as_galleries_decide(open_gallery, fusion, size):
    others, people = _crowd(1, 40, 6), _crowd(2, 12, 6, nameless=15)
    people.embeddings[:72:5] = _crowd(3, 15, 1).embeddings  # these show somebody else, and are not fused
    known = calibrate_people(others, CONTRACT, "made up", replicates=50)
    rows = open_set_of(people, known, 0.3, sizes=[size], draws=1, fusion=fusion)
    (figures,) = (row for row in rows if row.templates == size)
    filling = np.flatnonzero([not name for name in people.identities])
    trial = draw_trial(people.identities, 3, np.random.default_rng(0), filling)
    templates, owners = trial.templates[:size], trial.owners[:size]
    policy = EnrolmentPolicy(fusion=fusion)
    gallery = open_gallery(contract=CONTRACT, dimension=12, calibration=known, policy=policy)
    for owner in np.unique(owners):
        gallery.enrol(f"{owner:03}", list(people.embeddings[templates[owners == owner]]))
    present = trial.mated_owners <= owners[-1]
    strangers = gallery.identify_many(list(people.embeddings[trial.impostors]), fpir=0.3)
    enrolled = gallery.identify_many(list(people.embeddings[trial.mated[present]]), fpir=0.3)
    names = [f"{owner:03}" for owner in trial.mated_owners[present]]
    photographs = {template.photographs for p in gallery.people() for template in gallery.templates(p.name)}
    assert photographs == ({1} if fusion == "none" else {1, 2, 3})
    assert strangers[0].threshold == pytest.approx(figures.threshold)
    assert strangers[0].fpir_upper == pytest.approx(figures.fpir_upper)
    assert np.mean([answer.outcome != "nobody" for answer in strangers]) == pytest.approx(figures.fpir)
    answers = [answer.person for answer in enrolled]
    assert np.mean([answer != name for answer, name in zip(answers, names, strict=True)]) == pytest.approx(figures.fnir)
    assert 0 < figures.fpir < 1
    assert 0 < figures.fnir < 1


def test_photographs_of_a_labelled_person_are_no_strangers():
    rows = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    assert shows_labelled_person(rows, ["p", "", "q", ""]).tolist() == [False, True, False, False]
    assert not shows_labelled_person(rows, ["", "", "", ""]).any()
    longer = rows + [[0.0, 0.0, 0.0, 1.0]] * 4  # cosines of 0.5 are no match, whatever the rows' length
    assert shows_labelled_person(9 * longer, ["p", "", "q", ""]).tolist() == [False, True, False, False]
    with pytest.raises(DataError, match="embedding 3 of 4 has length 0"):
        shows_labelled_person(rows * [[1], [1], [1], [0]], ["p", "", "q", ""])
