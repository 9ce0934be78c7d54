"""The cache of teacher answers: what comes back is what the teacher said, and stale or torn caches are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facekd.distill.cache import TeacherCache, data_digest
from facekd.distill.teachers import EmaTeacher, TorchTeacher
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


def build(folder: Path, teacher, crops, **options) -> TeacherCache:
    def pictures(start: int, stop: int) -> torch.Tensor:
        return torch.from_numpy(crops[start:stop]).float() / 255

    arguments = {"taps": ["output", "1"], "batch": 4} | options
    return TeacherCache.build(
        folder, teacher, count=len(crops), pictures=pictures, pictures_digest=data_digest([crops]), **arguments
    )


def test_answers_come_back_in_any_order_and_are_asked_once(tmp_path: Path, teacher, crops) -> None:
    cache = build(tmp_path / "cache", teacher, crops)
    assert teacher.asked == 11
    wanted = teacher.answer(torch.from_numpy(crops).float() / 255, ["output", "1"])
    rows = cache.rows([7, 0, 10])
    assert rows["output"].dtype == torch.float32
    assert cache.shapes == {"output": (3,), "1": (4, 2, 2)}
    for tap, values in rows.items():
        torch.testing.assert_close(values, wanted[tap][[7, 0, 10]], atol=1e-3, rtol=1e-3)
    build(tmp_path / "cache", teacher, crops)
    assert teacher.asked == 22  # ours above, none for the second build
    exact = build(tmp_path / "exact", teacher, crops, half=False)
    torch.testing.assert_close(exact.rows([3])["output"], wanted["output"][[3]], atol=1e-6, rtol=0)


def test_other_teachers_other_data_and_torn_builds_are_refused(tmp_path: Path, teacher, crops) -> None:
    folder = tmp_path / "cache"
    build(folder, teacher, crops)
    digest = data_digest([crops])
    with pytest.raises(DataError, match="stale: its teacher"):
        TeacherCache(folder, "another", digest)
    changed = crops.copy()
    changed[5, 0, 0, 0] ^= 1
    with pytest.raises(DataError, match="stale: its data"):
        TeacherCache(folder, teacher.digest, data_digest([changed]))
    with pytest.raises(DataError, match="stale: its data"):
        build(folder, teacher, changed)
    with pytest.raises(DataError, match="lacks a tap"):
        build(folder, teacher, crops, taps=["0"])
    with pytest.raises(DataError, match="holds 11 pictures"):
        TeacherCache(folder, teacher.digest, digest).rows([11])
    (folder / "answers-0.npy").write_bytes(b"torn")
    with pytest.raises(DataError, match="damaged"):
        TeacherCache(folder, teacher.digest, digest)


def test_a_build_that_is_killed_leaves_no_cache(tmp_path: Path, teacher, crops) -> None:
    class Killed(Exception):
        pass

    def pictures(start: int, stop: int) -> torch.Tensor:
        if start >= 8:
            raise Killed
        return torch.from_numpy(crops[start:stop]).float() / 255

    folder = tmp_path / "cache"
    with pytest.raises(Killed):
        TeacherCache.build(folder, teacher, ["output"], len(crops), pictures, data_digest([crops]), batch=4)
    with pytest.raises(DataError, match="no finished cache"):
        TeacherCache(folder, teacher.digest, data_digest([crops]))
    build(folder, teacher, crops)  # and can be built anew


def test_the_table_is_readable_and_its_format_is_checked(tmp_path: Path, teacher, crops) -> None:
    build(tmp_path, teacher, crops)
    table = json.loads((tmp_path / "cache.json").read_text())
    table["format"] = 99
    (tmp_path / "cache.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match="stale: its format is 99"):
        TeacherCache(tmp_path, teacher.digest, data_digest([crops]))


def test_changing_teachers_and_overflowing_answers_are_refused(tmp_path: Path, teacher, crops) -> None:
    with pytest.raises(ConfigError, match="cannot be cached"):
        build(tmp_path / "a", EmaTeacher(teacher.network), crops)
    with torch.no_grad():
        teacher.network[3].bias.fill_(1e6)
    with pytest.raises(DataError, match="half=False"):
        build(tmp_path / "b", teacher, crops)


def test_the_data_digest_sees_shape_type_and_order(crops) -> None:
    digests = {
        data_digest([crops]),
        data_digest([crops[::-1]]),
        data_digest([crops.reshape(11, 48)]),
        data_digest([crops.astype(np.int16)]),
        data_digest([crops[:5], crops[5:]]),
    }
    assert len(digests) == 5
