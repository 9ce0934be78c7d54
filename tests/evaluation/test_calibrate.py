"""Calibration points: what the data shows, and nothing beyond."""

from __future__ import annotations

import json
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd import cli
from facekd.errors import DataError
from facekd.evaluation.all_pairs import compare_all, operating_points
from facekd.evaluation.calibrate import calibration_points, measure_curve
from facekd.evaluation.probe_sets import compare_sets
from facekd.gallery import Calibration, Gallery
from facekd.images import load_image


def example(crops: Sequence[int]) -> tuple[np.ndarray, list[str]]:
    """People with so many crops each."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(len(crops), 8)), crops, axis=0) + 0.5 * rng.normal(size=(sum(crops), 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), [f"p{person:02}" for person, each in enumerate(crops) for _ in range(each)]


def comparisons(
    embeddings: np.ndarray, names: list[str]
) -> tuple[list[tuple[float, str, str]], dict[str, list[float]]]:
    """Non-mated comparisons by falling cosine, and the cosines of each person's mated ones."""
    non_mated, mated = [], defaultdict(list)
    for (i, first), (j, second) in combinations(enumerate(names), 2):
        score = float(embeddings[i] @ embeddings[j])
        if first == second:
            mated[first].append(score)
        else:
            non_mated.append((score, *sorted((first, second))))
    return sorted(non_mated, reverse=True), mated


def highest_refused(non_mated: list[tuple[float, str, str]], rate: float, weigh: bool) -> float:
    each = Counter((a, b) for _, a, b in non_mated)
    accepted, room = 0.0, rate * (len(each) if weigh else len(non_mated)) + 1e-9
    for score, a, b in non_mated:
        accepted += 1 / each[a, b] if weigh else 1
        if accepted > room:
            return score
    raise AssertionError("all accepted")


def test_points_hold_what_they_say() -> None:
    embeddings, names = example([3, 4, 5, 6, 7, 8] * 5)
    pairs, design = compare_sets(embeddings, names, max_far=0.1)
    points = calibration_points(pairs, design)
    non_mated, mated = comparisons(embeddings, names)
    each = Counter((a, b) for _, a, b in non_mated)
    effective = len(each) ** 2 / sum(1 / count for count in each.values())
    assert [point.fmr for point in points] == [1e-1, 3e-2, 1e-2, 3e-3, 1e-3]
    assert 10 / 1e-3 < effective < 10 / 3e-4
    for point in points:
        assert point.threshold == pytest.approx(highest_refused(non_mated, point.fmr, weigh=True), abs=1e-6)
        assert point.fnmr == pytest.approx(
            np.mean([(np.array(own) < point.threshold).mean() for own in mated.values()])
        )
        couples = {(a, b) for score, a, b in non_mated if score > point.threshold + 1e-6}
        assert point.people_pairs == pytest.approx(len(couples), abs=1)
        assert point.fmr_lower <= point.fmr <= point.fmr_upper
    assert all(a.threshold < b.threshold for a, b in pairwise(points))
    assert points == calibration_points(pairs, design)  # the same seed


def test_with_as_many_crops_of_each_the_thresholds_are_those_of_counting() -> None:
    faces = example([5] * 12)
    points = calibration_points(*compare_sets(*faces, max_far=0.1), replicates=20)
    assert [point.fmr for point in points] == [1e-1, 3e-2, 1e-2]
    counted = operating_points(compare_all(*faces, max_far=0.1), [point.fmr for point in points])
    assert [point.threshold for point in points] == [point.threshold for point in counted]


def test_a_much_photographed_pair_of_people_decides_no_more_than_others() -> None:
    """Of 15 pairs of people one has 36 of 156 comparisons, and these two look alike."""
    embeddings, names = example([6, 6, 2, 2, 2, 2])
    embeddings[6:12] = embeddings[:6]
    pairs, design = compare_sets(embeddings, names, max_far=0.3)
    points = calibration_points(pairs, design, (0.3, 0.1), replicates=20)
    non_mated, _ = comparisons(embeddings, names)
    for point in points:
        weighed, counted = (highest_refused(non_mated, point.fmr, weigh) for weigh in (True, False))
        assert weighed < counted - 0.05
        assert point.threshold == pytest.approx(weighed, abs=1e-6)


def test_photographs_twice_change_nothing() -> None:
    embeddings, names = example([3, 4, 5, 6, 7, 8] * 5)
    own = [row for row, name in enumerate(names) if name == "p07"]
    twice = np.concatenate([embeddings, embeddings[own]]), [*names, *["p07"] * len(own)]
    strangers = example([1] * 12)[0][::-1]
    for street in (None, strangers):
        once, again = (
            calibration_points(*compare_sets(*faces, strangers=street, max_far=0.1), replicates=50)
            for faces in ((embeddings, names), twice)
        )
        for point, other in zip(once, again, strict=True):
            assert other.fmr == point.fmr
            assert other.threshold == pytest.approx(point.threshold, abs=1e-6)  # products in another order
            assert (other.fmr_lower, other.fmr_upper) == pytest.approx((point.fmr_lower, point.fmr_upper))
            assert other.people_pairs == point.people_pairs


def test_distributions_agree_with_the_points() -> None:
    pairs, design = compare_sets(*example([3, 4, 5, 6, 7, 30] * 5), max_far=0.1)
    curve = measure_curve(pairs, 20, design)
    assert sum(curve.non_mated_histogram) == curve.pairs == pairs.non_mated
    assert sum(curve.mated_histogram) == curve.mated_pairs
    edges = np.linspace(-1, 1, len(curve.mated_histogram) + 1)
    for point in curve.points[:3]:
        above = int(np.searchsorted(edges, point.threshold))
        beyond, within = (sum(curve.non_mated_histogram[k:]) / curve.pairs for k in (above, above - 1))
        assert beyond <= point.fmr + 1 / curve.pairs
        assert within >= point.fmr - 1 / curve.pairs
        refused = [sum(curve.mated_histogram[:k]) / curve.mated_pairs for k in (above - 1, above)]
        assert refused[0] - 1 / curve.mated_pairs <= point.fnmr <= refused[1] + 1 / curve.mated_pairs


def test_a_rate_that_the_kept_comparisons_do_not_reach_is_left_out() -> None:
    """Two much-photographed people who look alike fill what is kept: they make 9,216 of 22,476 comparisons."""
    embeddings, names = example([96, 96, *[2] * 30])
    embeddings[96:192] = embeddings[:96]
    pairs, design = compare_sets(embeddings, names, max_far=0.1)
    assert pairs.effective > 10 / 1e-2
    assert [point.fmr for point in calibration_points(pairs, design, replicates=20)] == [3e-2, 1e-2]


def test_too_little_data() -> None:
    with pytest.raises(DataError, match="more people"):
        calibration_points(*compare_sets(*example([2, 2, 2]), max_far=0.1))


def test_people_of_one_photograph_show_no_small_rate() -> None:
    """Thirty people of twenty photographs show 1e-4; with thirty of one, a rate is a statement about them too."""
    rates = {}
    for singles in (0, 30):
        pairs, design = compare_sets(*example([20] * 30 + [1] * singles), max_far=0.1)
        rates[singles] = calibration_points(pairs, design, replicates=20)[-1].fmr
    assert rates == {0: 1e-4, 30: 3e-3}


class FakePipeline:
    """A picture's red says who it shows, its green which photograph of theirs; blue is a mask."""

    contract = "0123456789abcdef"
    record = types.SimpleNamespace(name="tiny")

    def __init__(self, embedder: object = None) -> None:
        self.embedder = self

    def analyze(self, image: object) -> list[types.SimpleNamespace]:
        red, green, blue = (int(value) for value in load_image(image)[0, 0])  # type: ignore[arg-type]
        return [
            types.SimpleNamespace(
                box=np.array([0, 0, 90, 90], np.float32),
                embedding=vector(red, green),
                crop=np.full((112, 112, 3), (red, green, blue), np.uint8),
                mask=types.SimpleNamespace(status="mask" if blue else "none", score=0.9),
                quality=types.SimpleNamespace(score=0.8, reasons=()),
            )
        ]

    def embed(self, crops: np.ndarray) -> np.ndarray:
        return np.stack([vector(int(crop[0, 0, 0]), 100 + int(crop[0, 0, 1])) for crop in crops])


def vector(person: int, photograph: int) -> np.ndarray:
    row = np.random.default_rng(person).normal(size=512)
    row += 1.5 * np.random.default_rng(1000 * person + photograph).normal(size=512)
    return (row / np.linalg.norm(row)).astype(np.float32)


def folder(path: Path, people: range, photographs: range) -> Path:
    for person in people:
        for photograph in photographs:
            file = path / f"p{person}" / f"{photograph}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (person, photograph, 0)).save(file)
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict]]:
    monkeypatch.setattr("facekd.recognition.embedder.Embedder", FakePipeline)
    monkeypatch.setattr("facekd.pipeline.FacePipeline", FakePipeline)

    def run(*arguments: object) -> tuple[int, dict]:
        code = cli.run(["calibrate", *map(str, arguments), "--replicates", "20", "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else {"error": printed.err}

    return run


def test_photographs_of_people_and_of_strangers(tmp_path: Path, command: Callable[..., tuple[int, dict]]) -> None:
    people = folder(tmp_path / "people", range(10), range(4))
    street = folder(tmp_path / "street", range(50, 57), range(1))
    code, found = command(people, "--impostors", street, "--out", tmp_path / "c.json")
    assert code == 0
    assert found["unmasked"]["pairs"] == (40 * 39 - 40 * 3) // 2 + 40 * 7
    assert found["masked"]["pairs"] == 40 * 39 - 40 * 3 + 40 * 7  # drawn, since nobody wears one
    assert found["source"] == "people, street; all pairs of people weigh alike"
    assert Calibration.load(tmp_path / "c.json").contract == FakePipeline.contract
    assert "masked" not in {kind for kind, curve in command(people, "--no-masked")[1].items() if curve is not None}


def test_a_gallery_and_its_probes(
    tmp_path: Path, command: Callable[..., tuple[int, dict]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "people.db"
    with Gallery.open(path, contract=FakePipeline.contract) as gallery:
        for person in range(10):
            gallery.enrol(f"p{person}", [vector(person, photograph) for photograph in range(3)])
    monkeypatch.setattr(
        "facekd.cli.gallery_access.open_with_pipeline",
        lambda location, key_file: (Gallery.open(location, create=False), FakePipeline()),
    )
    code, found = command("--gallery", path)
    assert (code, found["unmasked"]["pairs"]) == (0, (30 * 29 - 30 * 2) // 2)
    door = folder(tmp_path / "door", range(8, 12), range(10, 14))  # two are enrolled, two are not
    code, found = command("--gallery", path, "--probes", door)
    assert (code, found["unmasked"]["pairs"]) == (0, 30 * 16 - 2 * 4 * 3)
    assert found["unmasked"]["mated_pairs"] == 2 * 4 * 3


def test_wrong_use_says_what_is_wanted(tmp_path: Path, command: Callable[..., tuple[int, dict]]) -> None:
    people = folder(tmp_path / "people", range(2), range(2))
    for wrong in (
        (),
        (people, "--gallery", tmp_path / "g.db"),
        (people, "--probes", people),
        (people, "--out", "c.txt"),
    ):
        assert command(*wrong)[0] == 2
    assert command(people)[0] == 3  # too few comparisons for two rates
