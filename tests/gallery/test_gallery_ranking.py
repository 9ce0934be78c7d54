"""People by their templates' scores: the one ranking of both back ends, beside a slow one."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.gallery.backend import FIRST_LOOK, NOBODY, people_by_score
from facekd.gallery.decision import Candidate


@pytest.fixture
def rank():
    """`rank(scores, owners)`: ranks templates with these scores; who is numbered 13 has no name."""

    def run(scores, owners, wanted=2):
        looks = []

        def search(embeddings, count):
            looks.append(count)
            order = np.argsort(-np.asarray(scores, np.float32))[:count]
            row = np.asarray(scores, np.float32)[order], np.asarray(owners)[order]
            return tuple(np.tile(part, (len(embeddings), 1)) for part in row)

        def names(numbers):
            return {number: f"person {number}" for number in numbers if number != 13}

        found = people_by_score(search, names, np.zeros((2, 4), np.float32), len(scores), wanted)
        assert found[0] == found[1]
        return found[0], looks

    return run


def test_an_empty_gallery_is_not_searched(rank):
    assert rank([], []) == ([], [])


def test_each_person_once_with_the_best_score(rank):
    found, _ = rank([0.1, 0.5, 0.25, 1.0001], [7, 8, 7, 9])
    assert found == [Candidate("person 9", 1.0), Candidate("person 8", 0.5), Candidate("person 7", 0.25)]


def test_it_looks_further_where_one_person_has_all_the_best(rank):
    scores = np.linspace(1, 0, 10 * FIRST_LOOK)
    owners = np.where(np.arange(len(scores)) < 100, 1, 2)
    found, looks = rank(scores, owners)
    assert [person.person for person in found] == ["person 1", "person 2"]
    assert found[1].score == pytest.approx(scores[100])
    assert looks == [FIRST_LOOK, 4 * FIRST_LOOK, 10 * FIRST_LOOK]


def test_gaps_and_people_without_a_name_are_left_out(rank):
    found, _ = rank([0.5, 0.4, 0.3, -np.inf], [13, 1, 2, NOBODY])
    assert [person.person for person in found] == ["person 1", "person 2"]
