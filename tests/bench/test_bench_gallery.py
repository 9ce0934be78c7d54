"""Galleries of synthetic people: the people are as described, and every figure is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facekd import cli
from facekd.bench.gallery import bench_gallery, memory_bandwidth, synthetic_people


def test_people_are_shaped_like_real_ones() -> None:
    people = synthetic_people(300, 2, np.random.default_rng(0))
    assert people.shape == (300, 2, 512)
    assert people.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(people, axis=2), 1, atol=1e-5)
    mated = (people[:, 0] * people[:, 1]).sum(axis=1)
    assert mated.mean() == pytest.approx(0.65, abs=0.02)
    others = people[:150, 0] @ people[150:, 0].T
    assert others.mean() == pytest.approx(0, abs=0.01)
    assert others.std() == pytest.approx(0.13, abs=0.01)


def test_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small, larger) = bench_gallery([200, 400], tmp_path, rounds=2)
    assert (small.templates, larger.templates) == (200, 400)
    assert small.found == larger.found == 1.0
    assert larger.megabytes > small.megabytes
    assert larger.memory_limit_ms == pytest.approx(2 * small.memory_limit_ms)
    assert all(value > 0 for value in (small.open_ms, small.search_ms, small.enrol_ms, small.remove_ms))
    assert not list(tmp_path.iterdir())  # nothing is left behind
    with pytest.raises(ValueError, match="fewer than 200"):
        bench_gallery([100])
    assert memory_bandwidth(8) > 1e8
    assert cli.run(["bench", "gallery", "--sizes", "200", "--rounds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["galleries"][0]["templates"] == 200
    assert cli.run(["bench", "gallery", "--sizes", "many"]) == 2
    assert cli.run(["bench", "gallery", "--sizes", "10"]) == 2
