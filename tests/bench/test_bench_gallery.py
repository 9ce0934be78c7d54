"""Galleries of synthetic people: the people are as described, and every figure is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facekd import cli
from facekd.bench.gallery import bench_gallery, memory_bandwidth, resident_bytes
from facekd.bench.indexes import compare_indexes
from facekd.bench.synthetic_people import synthetic_people


def test_people_are_shaped_like_real_ones() -> None:
    people = synthetic_people(2000, 2, np.random.default_rng(0))
    assert people.shape == (2000, 2, 512)
    assert people.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(people, axis=2), 1, atol=1e-5)
    mated = (people[:, 0] * people[:, 1]).sum(axis=1)
    assert (mated.mean(), mated.std()) == pytest.approx((0.515, 0.125), abs=0.015)
    others = people[:1000, 0] @ people[1000:, 0].T
    assert (others.mean(), others.std()) == pytest.approx((0.09, 0.105), abs=0.01)
    energy = np.cumsum(np.linalg.svd(people.reshape(-1, 512), compute_uv=False) ** 2)
    assert energy[127] / energy[-1] == pytest.approx(0.979, abs=0.005)


def test_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.gallery.live.FLAT_UP_TO", 300)
    (small, larger) = bench_gallery([200, 400], tmp_path, rounds=2, probes=50)
    assert (small.templates, larger.templates) == (200, 400)
    assert (small.probes, small.recall_mated, small.recall_strangers) == (50, 1.0, 1.0)
    assert (larger.recall_mated, larger.recall_strangers) == (1.0, 1.0)
    assert 0.8 < larger.own_first <= 1.0
    assert larger.megabytes > small.megabytes
    assert larger.memory_limit_ms == pytest.approx(2 * small.memory_limit_ms)
    for index in (small.exact, small.chosen, larger.exact, larger.chosen):
        assert min(index.open_ms, index.search_ms, index.batch_search_ms, index.enrol_ms, index.remove_ms) > 0
    # Only what is no longer searched exactly has an index on disk.
    assert [small.chosen.reopen_ms, larger.exact.reopen_ms] == [None, None]
    assert larger.chosen.reopen_ms is not None
    assert not list(tmp_path.iterdir())  # nothing is left behind
    with pytest.raises(ValueError, match="fewer than 200"):
        bench_gallery([100])


def test_ways_to_search_are_judged_by_exact_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.bench.indexes.SAMPLE", 2000)
    monkeypatch.setattr("facekd.bench.indexes.LISTS", 16)
    monkeypatch.setattr("facekd.bench.indexes.LISTS_LOOKED_INTO", (1, 16))
    rows, axes = compare_indexes(20_000, probes=20)
    assert (rows[0].name, rows[0].found_mated, rows[0].found_strangers) == ("all, float32", 1.0, 1.0)
    assert rows[0].bytes_each == pytest.approx(2048, rel=0.01)
    (used,) = [row for row in rows if "(used)" in row.name]
    assert used.bytes_each == pytest.approx(axes, rel=0.05)
    assert used.found_mated == 1.0
    one, all_lists = rows[-2:]
    assert one.found_strangers < all_lists.found_strangers  # who looks into fewer lists misses more
    with pytest.raises(ValueError, match="20000"):
        compare_indexes(1000)


def test_memory_is_measured() -> None:
    assert memory_bandwidth(8) > 1e8
    before = resident_bytes()
    if before is None:
        pytest.skip("needs /proc")
    block = np.ones(2**23)
    after = resident_bytes()
    assert after is not None
    assert after - before > 0.9 * block.nbytes


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "gallery", "--sizes", "200", "--rounds", "1", "--probes", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["galleries"][0]["templates"] == 200
    assert cli.run(["bench", "gallery", "--sizes", "200", "--rounds", "1", "--probes", "5"]) == 0
    assert "chosen" in capsys.readouterr().out
    assert cli.run(["bench", "gallery", "--sizes", "many"]) == 2
    assert cli.run(["bench", "gallery", "--sizes", "10"]) == 2
