"""Curves are saved as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="curves need the extra bench")

from facekd.bench.plots import plot_det, plot_detection
from facekd.detection.evaluate import FoundFaces
from facekd.detection.labels import LabelledPhotograph
from facekd.errors import ConfigError
from facekd.evaluation.verification import det_curve
from facekd.images import load_image


def test_both_curves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, other = (det_curve(rng.normal(mean, 1, 50), rng.normal(0, 1, 50)) for mean in (1, 3))
    plot_det(tmp_path / "det.png", {"easy": other, "hard": one})
    plot_det(tmp_path / "one.png", {"hard": one})
    assert not np.array_equal(load_image(tmp_path / "det.png"), load_image(tmp_path / "one.png"))
    boxes = np.array([[0, 0, 10, 10]], np.float32)
    points = np.zeros((1, 5, 2), np.float32)
    labels = [LabelledPhotograph("a", 20, 20, boxes, points, np.array([False]))]
    plot_detection(tmp_path / "curve.png", labels, [FoundFaces(boxes, points, np.array([0.9], np.float32))], "ours")
    for name in ("det.png", "curve.png"):
        assert load_image(tmp_path / name).std() > 5


def test_the_suffix_says_the_format_and_must_be_one(tmp_path: Path) -> None:
    curves = {"one": det_curve(np.array([0.5, 0.8]), np.array([0.1, 0.6]))}
    for name, begin in (("a.svg", b"<?xml"), ("b.PNG", b"\x89PNG"), ("c", b"\x89PNG")):
        plot_det(tmp_path / name, curves)
        assert (tmp_path / name).read_bytes().startswith(begin)
    with pytest.raises(ConfigError, match=r"a\.txt: the suffix must be one of .*\.png"):
        plot_det(tmp_path / "a.txt", curves)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.svg", "b.PNG", "c"]
