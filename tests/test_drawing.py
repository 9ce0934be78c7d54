"""Marks are drawn on a copy, wherever the box lies."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.drawing import BLUE, GREEN, Mark, draw_faces


def _grey(height: int = 80, width: int = 120) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_no_marks_give_an_equal_copy() -> None:
    image = _grey()
    drawn = draw_faces(image, [])
    assert np.array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_the_picture_handed_in_stays_as_it_was() -> None:
    image = _grey()
    draw_faces(image, [Mark(np.float32([10, 10, 60, 60]), np.full((5, 2), 30, np.float32), "name")])
    assert (image == 128).all()


def test_box_and_landmarks_have_the_colour_in_rgb_order() -> None:
    points = np.float32([[20, 30], [50, 30], [35, 40], [25, 52], [45, 52]])
    drawn = draw_faces(_grey(), [Mark(np.float32([10, 20, 60, 70]), points, colour=BLUE)])
    assert tuple(drawn[70, 35]) == BLUE
    assert tuple(drawn[45, 10]) == BLUE
    for x, y in points.astype(int):
        assert tuple(drawn[y, x]) == BLUE
    assert tuple(drawn[60, 35]) == (128, 128, 128)


def test_the_label_stands_above_the_box_and_below_the_edge_where_there_is_no_room() -> None:
    above = draw_faces(_grey(), [Mark(np.float32([10, 40, 60, 70]), None, "A")])
    assert (above[25:38, 10:20] != 128).any()
    top = draw_faces(_grey(), [Mark(np.float32([10, 0, 60, 70]), None, "A")])
    assert (top[3:12, 12:18] != 128).any()


@pytest.mark.parametrize(
    "box",
    [(-50, -50, 300, 300), (200, 200, 300, 300), (-30, -30, -10, -10), (0, 0, 0, 0), (119.4, 79.4, 119.6, 79.6)],
)
def test_boxes_beyond_the_edges_are_drawn_as_far_as_they_can_be(box: tuple[float, ...]) -> None:
    points = np.array([box[:2]] * 5, np.float32)
    drawn = draw_faces(_grey(), [Mark(np.float32(box), points, "Zoë Müller 王 " * 4, GREEN)])
    assert drawn.shape == (80, 120, 3)


def test_a_label_with_letters_that_the_font_lacks_is_written_in_plain_ones() -> None:
    with_accents = draw_faces(_grey(), [Mark(np.float32([10, 40, 60, 70]), None, "José")])
    without = draw_faces(_grey(), [Mark(np.float32([10, 40, 60, 70]), None, "Jose")])
    assert np.array_equal(with_accents, without)
