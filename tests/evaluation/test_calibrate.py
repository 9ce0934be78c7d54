"""Calibration points: what the data shows, and nothing beyond."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd import cli
from facekd.errors import DataError
from facekd.evaluation.all_pairs import compare_all
from facekd.evaluation.calibrate import calibration_points
from facekd.gallery import Calibration, Gallery
from facekd.images import load_image


def example(people: int, each: int) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(people, 8)), each, axis=0) + 0.5 * rng.normal(size=(people * each, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), [f"p{k // each}" for k in range(people * each)]


def test_points_hold_what_they_say() -> None:
    embeddings, names = example(30, 6)
    pairs = compare_all(embeddings, names, max_far=0.1)
    points = calibration_points(pairs)
    assert [point.fmr for point in points] == [1e-1, 3e-2, 1e-2, 3e-3, 1e-3]  # 15,660 pairs: 3e-4 would be four of them
    scores = embeddings @ embeddings.T
    different = np.array(names)[:, None] < np.array(names)[None, :]
    same = (np.array(names)[:, None] == np.array(names)[None, :]) & (np.triu(np.ones_like(scores), 1) > 0)
    for point in points:
        accepted = different & (scores >= point.threshold - 1e-6)
        assert accepted.sum() / different.sum() == pytest.approx(point.fmr, rel=0.1)
        assert point.fnmr == pytest.approx((scores[same] < point.threshold).mean(), abs=1e-3)
        couples = {(names[i], names[j]) for i, j in zip(*np.nonzero(accepted), strict=True)}
        assert point.people_pairs == pytest.approx(len(couples), abs=1)
        assert point.fmr_lower <= point.fmr <= point.fmr_upper
    assert all(a.threshold < b.threshold for a, b in pairwise(points))
    assert points == calibration_points(pairs)  # the same seed


def test_too_little_data() -> None:
    with pytest.raises(DataError, match="more people"):
        calibration_points(compare_all(*example(3, 2), max_far=0.1))


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
    assert found["source"] == "people, street"
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
