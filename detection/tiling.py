"""How a photograph is shown to the detector: at which scales, and cut into which tiles.

The anchors reach from 16 to 512 pixels, photographs from thumbnails to 20 megapixels and more. Three kinds of views
together cover every face from ``min_face_px`` to one that fills the frame:

1. **Fine.** The photograph shrunk by ``f = min(1, 20 / min_face_px)``, so that the smallest wanted face arrives 20 px
   large. So a larger ``min_face_px`` saves time. (An early detector on 100 photographs of ``val``, ``min_face_px`` 20:
   recall 0.80 when that face arrives with 20 px, 0.72 with 16, 0.63 with 12.) The long side is not shrunk below 320 px,
   where nothing is left to save. What is longer than 1280 px is cut into overlapping tiles.
2. **Coarse.** When the fine view is longer than 640 px, the whole photograph with a long side of 640 px. It sees the
   faces that are too large for the anchors in the fine view, or cut by tiles: tiles overlap by at least the smallest
   face that the coarse view surely sees (24 px there), so every face is whole in a tile or sure in the coarse view.
3. **Close-up.** The whole photograph with a long side of 160 px inside a border: a face that fills the frame is then
   about 130 px large with room around it, which anchors match best and which most training pictures show.

The coarse and the close-up view report only boxes of the sizes that they are there for: each further look at the same
pixels would otherwise add its own mistakes.

Everything here is arithmetic on sizes: equal sizes give equal views.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

FINE_FACE_PX = 20
"""The smallest wanted face is this large (px) in the fine view."""
FINE_FLOOR_PX = 320
"""The fine view's long side is not shrunk below this."""
TILE_PX = 1280
"""Longest side of a tile."""
COARSE_PX = 640
"""Long side of the coarse view."""
COARSE_SURE_PX = 24
"""A face of this size (px) in the coarse view is surely seen."""
COARSE_LEAST_PX = 18
"""Smaller boxes of the coarse view are dropped: the fine view sees those faces better, and makes fewer mistakes."""
CLOSE_UP_PX = 160
"""Long side of the photograph inside the close-up view."""
CLOSE_UP_BORDER_PX = 32
"""Border round the close-up view, on each side."""
CLOSE_UP_LEAST_PX = 48
"""Smaller boxes of the close-up view (three tenths of its long side) are dropped, likewise."""
SMALLEST_INPUT_PX = 64
"""Inputs are padded to at least this on each side."""
MULTIPLE_PX = 32
"""Inputs are padded to multiples of the coarsest stride."""
EDGE_PX = 2
"""A box that comes this near to an edge where a tile was cut is left to the neighbour, which sees it whole."""


@dataclass(frozen=True, slots=True)
class View:
    """One input of the detector: a part of the photograph, shrunk, with a border.

    Attributes:
        width: of the whole photograph shrunk to this view's scale, px.
        height: likewise.
        left: first column of the part that is shown, in the shrunk photograph.
        top: first row.
        right: one past the last column.
        bottom: one past the last row.
        border: px of padding left and above; at least as much lies right and below.
        least_px: boxes whose longer side is smaller than this (px of this view) are left to finer views.
    """

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int
    border: int = 0
    least_px: int = 0

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        rows, columns = self.bottom - self.top + 2 * self.border, self.right - self.left + 2 * self.border
        return _padded(rows), _padded(columns)

    def to_photograph(
        self, points: npt.NDArray[np.floating], photograph_width: int, photograph_height: int
    ) -> npt.NDArray[np.float32]:
        """Points (..., 2) of the network's input in pixels of the photograph."""
        shift = np.array([self.left - self.border, self.top - self.border], np.float32)
        ratio = np.array([photograph_width / self.width, photograph_height / self.height], np.float32)
        return ((points + shift) * ratio).astype(np.float32)

    def is_trusted(self, boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """Which boxes (N, 4) of the network's input this view is there for: large enough, and not cut."""
        return ((boxes[:, 2:] - boxes[:, :2]).max(axis=1) >= self.least_px) & ~self.is_cut(boxes)

    def is_cut(self, boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """Which boxes (N, 4) of the network's input reach an edge where the photograph goes on in another tile."""
        low, far = self.border + EDGE_PX, self.border - EDGE_PX
        cut = np.zeros(len(boxes), np.bool_)
        if self.left > 0:
            cut |= boxes[:, 0] < low
        if self.top > 0:
            cut |= boxes[:, 1] < low
        if self.right < self.width:
            cut |= boxes[:, 2] > far + self.right - self.left
        if self.bottom < self.height:
            cut |= boxes[:, 3] > far + self.bottom - self.top
        return cut


def plan_views(width: int, height: int, min_face_px: float) -> list[View]:
    """The views of a photograph of that size, fine ones first (see the top of this module)."""
    long_side = max(width, height)
    fine = max(min(1.0, FINE_FACE_PX / min_face_px), min(1.0, FINE_FLOOR_PX / long_side))
    fine_width, fine_height = _scaled(width, fine), _scaled(height, fine)
    fine_long = max(fine_width, fine_height)
    sure = COARSE_SURE_PX * fine_long / COARSE_PX + 2 * EDGE_PX
    # Only panoramas of more than 34,000 fine pixels meet the limit of half a tile; there the largest faces of tiles'
    # edges are seen in parts.
    overlap = min(int(np.ceil(sure)), TILE_PX // 2)
    views = [
        View(fine_width, fine_height, left, top, right, bottom)
        for top, bottom in cut_evenly(fine_height, TILE_PX, overlap)
        for left, right in cut_evenly(fine_width, TILE_PX, overlap)
    ]
    if fine_long > COARSE_PX:
        views.append(whole_view(width, height, COARSE_PX, least_px=COARSE_LEAST_PX))
    least_px = CLOSE_UP_LEAST_PX * min(max(width, height), CLOSE_UP_PX) // CLOSE_UP_PX
    views.append(whole_view(width, height, CLOSE_UP_PX, CLOSE_UP_BORDER_PX, least_px))
    return views


def whole_view(width: int, height: int, long_side: int | None = None, border: int = 0, least_px: int = 0) -> View:
    """The whole photograph in one view, shrunk to that long side where it is longer (None: as it is)."""
    scale = min(1.0, (long_side or max(width, height)) / max(width, height))
    shrunk_width, shrunk_height = _scaled(width, scale), _scaled(height, scale)
    return View(shrunk_width, shrunk_height, 0, 0, shrunk_width, shrunk_height, border, least_px)


def cut_evenly(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Equal spans (start, end) of at most ``tile`` that cover 0..length and overlap by at least ``overlap``."""
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    size = min(tile, _padded(-(-(length + (count - 1) * overlap) // count)))
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    return [(start, start + size) for start in starts]


def render(image: npt.NDArray[np.uint8], views: list[View], fill: tuple[int, int, int]) -> list[npt.NDArray[np.uint8]]:
    """The pixels of each view: RGB uint8 of its ``input_size``, padded with the colour ``fill``."""
    scaled: dict[tuple[int, int], npt.NDArray[np.uint8]] = {(image.shape[1], image.shape[0]): image}
    rendered = []
    for view in views:
        size = (view.width, view.height)
        if size not in scaled:
            # From the smallest version that is still larger: nearly the same pixels for a fraction of the work.
            source = min((v for k, v in scaled.items() if k[0] >= size[0] and k[1] >= size[1]), key=lambda v: v.size)
            scaled[size] = np.asarray(cv2.resize(source, size, interpolation=cv2.INTER_AREA), np.uint8)
        part = scaled[size][view.top : view.bottom, view.left : view.right]
        canvas = np.empty((*view.input_size, 3), np.uint8)
        canvas[:] = fill
        canvas[view.border : view.border + part.shape[0], view.border : view.border + part.shape[1]] = part
        rendered.append(canvas)
    return rendered


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))


def _padded(side: int) -> int:
    return max(SMALLEST_INPUT_PX, -(-side // MULTIPLE_PX) * MULTIPLE_PX)
