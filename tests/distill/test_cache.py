"""The cache of teacher answers: what comes back is what the teacher said, and stale or torn caches are refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from facekd.distill import cache
from facekd.distill.cache import FixedPictures, TeacherCache
from facekd.distill.teachers import EmaTeacher, TorchTeacher
from facekd.engine.digests import digest_of
from facekd.errors import ConfigError, DataError


class Counting(TorchTeacher):
    asked = 0

    def answer(self, pictures, taps):
        self.asked += len(pictures)
        return super().answer(pictures, taps)


@pytest.fixture
def teacher() -> Counting:
    torch.manual_seed(0)
    return Counting(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)))


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (11, 3, 4, 4), dtype=np.uint8)


class Killed(Exception):
    pass


def pictures(crops: np.ndarray, fails_from: int = 99) -> FixedPictures:
    def take(start: int, stop: int) -> torch.Tensor:
        if stop > fails_from:
            raise Killed
        return torch.from_numpy(crops[start:stop]).float() / 255

    return FixedPictures(len(crops), take, lambda: digest_of([crops]))


def build(folder: Path, teacher, crops, **options) -> TeacherCache:
    arguments = {"taps": ["output", "1"], "batch": 4} | options
    return TeacherCache.build(folder, teacher, pictures=pictures(crops), **arguments)


def test_answers_come_back_in_any_order_and_are_asked_once(tmp_path: Path, teacher, crops) -> None:
    found = build(tmp_path / "cache", teacher, crops)
    assert teacher.asked == 11
    wanted = teacher.answer(torch.from_numpy(crops).float() / 255, ["output", "1"])
    rows = found.rows([7, 0, 10])
    assert rows["output"].dtype == torch.float32
    assert found.shapes == {"output": (3,), "1": (4, 2, 2)}
    for tap, values in rows.items():
        tolerance = 1e-6 if tap == "output" else 1e-3  # vectors are kept as they are, maps as float16
        torch.testing.assert_close(values, wanted[tap][[7, 0, 10]], atol=tolerance, rtol=tolerance)
    build(tmp_path / "cache", teacher, crops)
    assert teacher.asked == 22  # ours above, none for the second build


def test_other_teachers_other_data_and_torn_builds_are_refused(tmp_path: Path, teacher, crops) -> None:
    folder = tmp_path / "cache"
    build(folder, teacher, crops)
    digest = digest_of([crops])
    with pytest.raises(DataError, match="stale: its teacher"):
        TeacherCache(folder, "another", digest)
    changed = crops.copy()
    changed[5, 0, 0, 0] ^= 1
    with pytest.raises(DataError, match="stale: its data"):
        TeacherCache(folder, teacher.digest, digest_of([changed]))
    with pytest.raises(DataError, match="stale: its data"):
        build(folder, teacher, changed)
    with pytest.raises(DataError, match="answers of 11 pictures at output, 1, wanted 11 at 0; delete"):
        build(folder, teacher, crops, taps=["0"])
    with pytest.raises(DataError, match="holds 11 pictures"):
        TeacherCache(folder, teacher.digest, digest).rows([11])
    (folder / "answers-0.npy").write_bytes(b"torn")
    with pytest.raises(DataError, match="damaged"):
        TeacherCache(folder, teacher.digest, digest)


def test_a_build_that_is_killed_leaves_no_cache(tmp_path: Path, teacher, crops) -> None:
    folder = tmp_path / "cache"
    with pytest.raises(Killed):
        TeacherCache.build(folder, teacher, ["output"], pictures(crops, 8), batch=4)
    with pytest.raises(DataError, match="no finished cache"):
        TeacherCache(folder, teacher.digest, digest_of([crops]))
    build(folder, teacher, crops)  # and can be built anew


def test_a_build_that_is_killed_goes_on_where_it_was_unless_it_was_anothers(
    tmp_path: Path, teacher, crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "EVERY", 2)
    wanted = build(tmp_path / "whole", teacher, crops, batch=2).rows(range(11))
    torch.manual_seed(1)
    other = Counting(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)))
    for name, beginner, taps, left in (
        ("same", teacher, ["output", "1"], 3),  # noted after four pictures and after eight: 8 to 11 are left
        ("teacher", other, ["output", "1"], 11),
        ("taps", teacher, ["output"], 11),
    ):
        folder = tmp_path / name
        with pytest.raises(Killed):
            TeacherCache.build(folder, beginner, taps, pictures(crops, 9), batch=2)
        teacher.asked = 0
        found = build(folder, teacher, crops, batch=2)
        assert teacher.asked == left, name
        for tap, rows in found.rows(range(11)).items():
            assert torch.equal(rows, wanted[tap]), name
        assert not (folder / cache.NOTE).exists()


def test_processes_that_want_the_same_cache_wait_for_the_one_that_makes_it(tmp_path: Path, teacher, crops) -> None:
    with ThreadPoolExecutor(3) as pool:
        caches = list(pool.map(lambda _: build(tmp_path, teacher, crops), range(3)))
    assert teacher.asked == 11
    assert all(torch.equal(found.rows([5])["1"], caches[0].rows([5])["1"]) for found in caches)


def test_a_disk_that_is_too_small_is_told_before_it_is_full(
    tmp_path: Path, teacher, crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _path: SimpleNamespace(free=10))
    with pytest.raises(DataError, match="name a folder on another disk"):
        build(tmp_path, teacher, crops)


def test_the_table_is_readable_and_its_format_is_checked(tmp_path: Path, teacher, crops) -> None:
    build(tmp_path, teacher, crops)
    table = json.loads((tmp_path / "cache.json").read_text())
    table["format"] = 99
    (tmp_path / "cache.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match="stale: its format is 99"):
        TeacherCache(tmp_path, teacher.digest, digest_of([crops]))


def test_changing_teachers_and_overflowing_answers_are_refused(tmp_path: Path, teacher, crops) -> None:
    with pytest.raises(ConfigError, match="cannot be cached"):
        build(tmp_path / "a", EmaTeacher(teacher.network), crops)
    with torch.no_grad():
        teacher.network[0].bias.fill_(1e6)
    with pytest.raises(DataError, match="answers at '1' exceed float16"):
        build(tmp_path / "b", teacher, crops)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_kept(tmp_path: Path, teacher, crops, value: float) -> None:
    with torch.no_grad():
        teacher.network[3].bias.fill_(value)
    with pytest.raises(DataError, match="answers pictures 0 to 3 with NaN or infinity at 'output': check its mean"):
        build(tmp_path, teacher, crops)
    assert not (tmp_path / "cache.json").exists()


def test_the_data_digest_sees_shape_type_and_order(crops) -> None:
    digests = {
        digest_of([crops]),
        digest_of([crops[::-1]]),
        digest_of([crops.reshape(11, 48)]),
        digest_of([crops.astype(np.int16)]),
        digest_of([crops[:5], crops[5:]]),
    }
    assert len(digests) == 5
