"""Every index against the slow reference; the large one also against what it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.gallery.index import NO_TEMPLATE, FlatIndex, ReferenceIndex
from facekd.gallery.quantised import Coding, QuantisedIndex

DIMENSION = 32


def _units(count, seed, dimension=DIMENSION):
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class _Full:
    """A quantised index with the full templates beside it, as the gallery's file holds them."""

    def __init__(self):
        self.templates = {}
        sample = _units(500, 99)
        self.index = QuantisedIndex(
            Coding.of(sample), lambda ids: {i: self.templates[i] for i in ids if i in self.templates}
        )

    def add(self, ids, templates):
        self.templates.update(zip(ids.tolist(), templates, strict=True))
        self.index.add(ids, templates)

    def remove(self, ids):
        for identifier in ids.tolist():
            self.templates.pop(identifier, None)
        self.index.remove(ids)

    def search(self, probes, count):
        return self.index.search(probes, count)

    def __len__(self):
        return len(self.index)


@pytest.mark.parametrize("make", [lambda: FlatIndex(DIMENSION), _Full], ids=["flat", "quantised"])
@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(1, 60), min_size=0, max_size=12, unique=True)), max_size=8
    ),
    count=st.integers(1, 20),
)
def test_agrees_with_the_reference(make, steps, count):
    index, reference = make(), ReferenceIndex(DIMENSION)
    everything = _units(61, 1)
    present = set()
    for adding, numbers in steps:
        ids = np.array([n for n in numbers if (n not in present) == adding], np.int64)
        for one in (index, reference):
            (one.add(ids, everything[ids]) if adding else one.remove(ids))
        present = present | set(ids.tolist()) if adding else present - set(ids.tolist())
    assert len(index) == len(reference) == len(present)
    if not present:
        return
    count = min(count, len(present))
    scores, ids = index.search(_units(5, 2), count)
    wanted_scores, wanted_ids = reference.search(_units(5, 2), count)
    assert np.allclose(scores, wanted_scores, atol=1e-6)
    assert np.array_equal(ids, wanted_ids)


def test_equal_scores_come_by_rising_id():
    index = FlatIndex(DIMENSION)
    (vector,) = _units(1, 3)
    index.add(np.array([7, 3, 5]), np.stack([vector] * 3))
    assert index.search(vector[None], 3)[1].tolist() == [[3, 5, 7]]


def test_the_large_index_finds_the_best_of_thousands_and_scores_it_exactly():
    full = _Full()
    templates = _units(6000, 5)
    full.add(np.arange(1, 6001), templates)
    noise = _units(300, 6)
    probes = 0.6 * templates[:300] + 0.8 * noise
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    scores, ids = full.search(probes, 2)
    exact = probes @ templates.T
    assert (ids[:, 0] - 1 == exact.argmax(axis=1)).mean() >= 0.999
    assert np.allclose(scores[:, 0], exact.max(axis=1), atol=1e-6)
    assert np.allclose(scores[:, 1], np.sort(exact, axis=1)[:, -2], atol=1e-6)


@pytest.mark.parametrize(
    "gone", [[200], [1], [3, 77, 199, 200], [*range(1, 201)]], ids=["last", "first", "some", "all"]
)
def test_what_was_removed_leaves_no_code_behind(gone):
    full = _Full()
    templates = _units(200, 8)
    full.add(np.arange(1, 201), templates)
    codes = full.index.codes.copy()
    full.index.remove(np.array([*gone, 999]))
    kept = [number for number in range(1, 201) if number not in gone]
    assert sorted(full.index.ids.tolist()) == kept
    assert {code.tobytes() for code in full.index.codes} == {codes[number - 1].tobytes() for number in kept}


def test_few_axes_hold_what_little_is_used():
    rng = np.random.default_rng(3)
    used = rng.standard_normal((3000, 40)).astype(np.float32) @ rng.standard_normal((40, 512)).astype(np.float32)
    used /= np.linalg.norm(used, axis=1, keepdims=True)
    assert len(Coding.of(used).axes) == 64
    assert len(Coding.of(_units(3000, 4, 512)).axes) > 400  # nothing to leave out
    coordinates = Coding.of(used).coordinates(used)
    assert (coordinates == np.rint(coordinates)).all()
    assert np.abs(coordinates).max() == 127


def test_templates_unlike_the_sample_are_found_all_the_same():
    alike = _units(400, 5, 128) * np.linspace(1, 0.01, 128, dtype=np.float32)
    alike /= np.linalg.norm(alike, axis=1, keepdims=True)
    others = _units(3000, 6, 128)
    index = QuantisedIndex(Coding.of(alike), lambda ids: {i: others[i] for i in ids})
    index.add(np.arange(3000), others)
    probes = 0.7 * others[:200] + 0.7 * _units(200, 7, 128)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    assert (index.search(probes, 1)[1][:, 0] == (probes @ others.T).argmax(axis=1)).mean() >= 0.999


def test_a_template_that_is_gone_from_the_file_is_no_answer():
    full = _Full()
    full.add(np.arange(1, 11), _units(10, 8))
    del full.templates[4]
    scores, ids = full.search(_units(10, 8)[3:4], 10)
    assert ids[0, -1] == NO_TEMPLATE
    assert scores[0, -1] == -np.inf
