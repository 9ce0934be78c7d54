"""Curves as pictures; needs the extra ``bench`` (matplotlib)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.detection.evaluate import FoundFaces
from facekd.detection.labels import LabelledPhotograph
from facekd.evaluation.detection import average_precision, detection_curve, match_detections
from facekd.evaluation.verification import det_curve, equal_error_rate

Path = str | os.PathLike[str]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def plot_det(target: Path, scores: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> None:
    """Save detection error trade-offs with logarithmic axes; the suffix of `target` says the format.

    Args:
        target: file to write.
        scores: of mated and of non-mated pairs, by the name of their protocol; one curve each.
    """
    figure, axes = _figure(5, 4.5)
    for name, (mated, non_mated) in scores.items():
        curve = det_curve(mated, non_mated)
        fmr, fnmr = np.maximum(curve.fmr, 0.5 / len(non_mated)), np.maximum(curve.fnmr, 0.5 / len(mated))
        (line,) = axes.loglog(fmr, fnmr, drawstyle="steps-post")
        rate = equal_error_rate(mated, non_mated)
        label = f"{name}, {len(mated) + len(non_mated)} comparisons: EER {100 * rate:.2f} %"
        axes.plot([rate], [rate], "o", color=line.get_color(), label=label)
    axes.set(xlabel="false-match rate", ylabel="false-non-match rate")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=150)


def plot_detection(target: Path, labels: Sequence[LabelledPhotograph], found: Sequence[FoundFaces], name: str) -> None:
    """Save recall against precision, and against false alarms a photograph."""
    matches = match_detections(labels, [faces.boxes_only() for faces in found])
    curve = detection_curve(matches)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(curve.recall, curve.precision, label=f"{name}, AP {average_precision(matches):.3f}")
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    right.semilogx(np.maximum(curve.false_alarms, 0.5) / matches.photographs, curve.recall, label=name)
    right.axvline(0.1, linestyle=":", color="grey")
    right.set(xlabel="false alarms a photograph", ylabel="recall", ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(True, alpha=0.3)
        axes.legend()
    figure.savefig(target, dpi=150)
