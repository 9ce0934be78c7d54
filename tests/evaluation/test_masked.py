"""The drawn mask is the one that figures are compared by."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path

import numpy as np
import pytest

from facekd.evaluation.masked import draw_mask, mask_kind


@pytest.mark.parametrize("kind", range(4))
def test_draws_as_the_shared_tool(shared_data: Path, kind: int) -> None:
    path = shared_data.parent / "tools" / "draw_mask.py"
    spec = importlib.util.spec_from_file_location("shared_draw_mask", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    crop = np.random.default_rng(kind).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_mask(crop, kind), tool.draw_mask(crop, kind))


def test_covers_mouth_and_nose_but_not_eyes() -> None:
    crop = np.full((112, 112, 3), 200, np.uint8)
    before = crop.copy()
    kinds = [draw_mask(crop, kind) for kind in range(4)]
    np.testing.assert_array_equal(crop, before)
    for masked in kinds:
        assert (masked[:56] == crop[:56]).all()  # eyes, brow
        assert (masked[80:100, 40:72] != crop[80:100, 40:72]).any(axis=2).all()  # mouth, chin
    assert len({masked.tobytes() for masked in kinds}) == 4


def test_kind_is_the_checksum_of_the_file_name() -> None:
    assert mask_kind("Some_One/Some_One_0001.webp") == zlib.crc32(b"Some_One_0001.webp") % 4
    assert mask_kind("Some_One_0001.webp") == mask_kind("elsewhere/Some_One_0001.webp")


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="fits"):
        draw_mask(np.zeros((96, 112, 3), np.uint8), 0)
    with pytest.raises(ValueError, match="0 to 3"):
        draw_mask(np.zeros((112, 112, 3), np.uint8), 4)
