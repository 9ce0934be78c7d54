"""Curves as pictures; needs the extra ``bench`` (matplotlib)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from facekd.detection.evaluate import FoundFaces
from facekd.detection.labels import LabelledPhotograph
from facekd.errors import ConfigError
from facekd.evaluation.detection import average_precision, detection_curve, match_detections
from facekd.evaluation.verification import DetCurve, crossing
from facekd.whole_files import whole_file

Path = str | os.PathLike[str]


def new_figure(width_inches: float, height_inches: float, columns: int = 1) -> tuple[Any, Any]:
    """A matplotlib figure and its axes, for `save_figure`."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    return figure, figure.subplots(1, columns)


def save_figure(figure: Any, target: Path) -> None:
    """Save a figure; the suffix of `target` says the format, none means PNG.

    Raises:
        ConfigError: matplotlib cannot write such a file.
    """
    suffix = os.path.splitext(target)[1].lower() or ".png"
    known = sorted(f".{name}" for name in figure.canvas.get_supported_filetypes())
    if suffix not in known:
        raise ConfigError(f"cannot write {os.fspath(target)}: the suffix must be one of {', '.join(known)}")
    with whole_file(target) as part:
        figure.savefig(part, dpi=150, format=suffix[1:])


def plot_det(target: Path, curves: Mapping[str, DetCurve]) -> None:
    """Save detection error trade-offs with logarithmic axes; the suffix of `target` says the format.

    Args:
        target: file to write.
        curves: by the name of their protocol.
    """
    figure, axes = new_figure(5, 4.5)
    for name, curve in curves.items():
        # A rate of 0 has no place on a logarithmic axis: it is drawn at half a comparison.
        fmr, fnmr = np.maximum(curve.fmr, 0.5 / curve.non_mated), np.maximum(curve.fnmr, 0.5 / curve.mated)
        changes = np.append(True, (np.diff(fmr) != 0) | (np.diff(fnmr) != 0))
        (line,) = axes.loglog(fmr[changes], fnmr[changes], drawstyle="steps-post")
        rate = crossing(curve.fmr, curve.fnmr)
        label = f"{name}, {curve.mated + curve.non_mated:,} comparisons: EER {100 * rate:.2f} %"
        axes.plot([rate], [rate], "o", color=line.get_color(), label=label)
    axes.set(xlabel="false-match rate", ylabel="false-non-match rate")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(loc="lower left")  # where a good curve leaves room; to look for the best place takes long
    save_figure(figure, target)


def plot_detection(target: Path, labels: Sequence[LabelledPhotograph], found: Sequence[FoundFaces], name: str) -> None:
    """Save recall against precision, and against false alarms a photograph."""
    matches = match_detections(labels, [faces.boxes_only() for faces in found])
    curve = detection_curve(matches)
    figure, (left, right) = new_figure(9, 4, columns=2)
    left.plot(curve.recall, curve.precision, label=f"{name}, AP {average_precision(matches):.3f}")
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    right.semilogx(np.maximum(curve.false_alarms, 0.5) / matches.photographs, curve.recall, label=name)
    right.axvline(0.1, linestyle=":", color="grey")
    right.set(xlabel="false alarms a photograph", ylabel="recall", ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(True, alpha=0.3)
        axes.legend()
    save_figure(figure, target)
