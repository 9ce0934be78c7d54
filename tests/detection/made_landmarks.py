"""Landmarks of faces that tests make up."""

from __future__ import annotations

import numpy as np

from facekd.detection.refiner import EYES_PX, SIDE_PX, TEMPLATE


def landmarks_at(x: float, y: float, eyes: float, turn: float = 0.0) -> np.ndarray:
    """Five points (5, 2) of a face with that distance of the eyes, turned by so many radians, its middle at (x, y)."""
    linear = eyes / EYES_PX * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray((TEMPLATE - SIDE_PX / 2) @ linear.T + [x, y], np.float32)
