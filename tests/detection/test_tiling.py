"""The views cover every photograph, within their limits, and points find back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.detection import tiling
from facekd.detection.tiling import cut_evenly, plan_views, render, whole_view

sides = st.integers(1, 12000)


@given(st.integers(1, 50000), st.integers(0, 640))
def test_spans_cover_and_overlap(length: int, overlap: int) -> None:
    spans = cut_evenly(length, 1280, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(0 < end - start <= 1280 for start, end in spans)
    assert all(later[0] <= earlier[1] - overlap for earlier, later in pairwise(spans))


@given(sides, sides, st.sampled_from([8, 12, 20, 60, 200]))
def test_views_of_any_photograph(width: int, height: int, min_face_px: int) -> None:
    views = plan_views(width, height, min_face_px)
    assert views == plan_views(width, height, min_face_px)
    for view in views:
        assert all(side >= 64 and side % 32 == 0 for side in view.input_size)
        assert max(view.input_size) <= tiling.TILE_PX
        assert 0 <= view.left < view.right <= view.width
        assert 0 <= view.top < view.bottom <= view.height
    if max(width, height) > 100:  # rounding to whole pixels aside
        wanted = width * min(1.0, tiling.FINE_FACE_PX / min_face_px)
        assert views[0].width + 0.5 >= 0.95 * wanted
    close_up = views[-1]
    assert max(close_up.width, close_up.height) == min(tiling.CLOSE_UP_PX, max(width, height))


@given(sides, sides, st.data())
def test_every_face_is_whole_in_a_tile_or_sure_in_the_coarse_view(width: int, height: int, data: st.DataObject) -> None:
    views = plan_views(width, height, 12)
    x, y = data.draw(st.floats(0, width)), data.draw(st.floats(0, height))
    side = data.draw(st.floats(1, 300))
    box = np.array([x, y, min(x + side, width), min(y + side, height)])
    fine = [v for v in views if (v.width, v.height) == (width, height)]
    coarse = [v for v in views if v.border == 0 and v not in fine]
    if coarse and side * coarse[0].width / width >= tiling.COARSE_SURE_PX:
        return
    assert any(not view.is_cut((box - [view.left, view.top] * 2)[None])[0] and _inside(box, view) for view in fine)


def _inside(box: np.ndarray, view: tiling.View) -> bool:
    return bool(box[0] >= view.left and box[1] >= view.top and box[2] <= view.right and box[3] <= view.bottom)


def test_larger_faces_cost_less() -> None:
    def pixels(min_face_px: float) -> int:
        return sum(int(np.prod(view.input_size)) for view in plan_views(4000, 3000, min_face_px))

    assert pixels(20) > pixels(30) > pixels(60) > 0


def test_small_photographs_are_not_shrunk() -> None:
    assert [plan_views(side, 240, 40)[0].width for side in (250, 500, 640, 1000)] == [250, 320, 320, 500]


def test_render_and_back() -> None:
    image = np.zeros((90, 200, 3), np.uint8)
    image[40:50, 100:120] = 255
    view = whole_view(200, 90, 100, border=32)
    (canvas,) = render(image, [view], (1, 2, 3))
    assert canvas.shape == (128, 192, 3)  # 45 and 100 px, two borders of 32, up to multiples of 32
    assert canvas[0, 0].tolist() == [1, 2, 3]
    rows, columns = np.nonzero(canvas[..., 0] == 255)
    corners = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_allclose(view.to_photograph(corners, 200, 90), [[100, 40], [120, 50]], atol=1e-3)


def test_unshrunk_pixels_are_the_photographs() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (canvas,) = render(image, [whole_view(96, 64)], (0, 0, 0))
    np.testing.assert_array_equal(canvas, image)


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ([10, 10, 50, 50], False),  # well inside
        ([1, 10, 50, 50], True),  # at the left, where another tile goes on
        ([10, -9, 50, 50], False),  # over the photograph's own upper edge
        ([10, 10, 99, 50], True),  # at the right
        ([10, 10, 50, 120], False),  # over the photograph's own lower edge
    ],
)
def test_boxes_at_cuts(box: list[float], cut: bool) -> None:
    view = tiling.View(width=300, height=100, left=100, top=0, right=200, bottom=100)
    assert view.is_cut(np.array([box], np.float32)).tolist() == [cut]
