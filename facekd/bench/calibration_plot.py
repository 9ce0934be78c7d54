"""A calibration artefact as a picture: score distributions and detection error trade-off; needs the extra ``bench``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from facekd.bench.plots import new_figure, save_figure

if TYPE_CHECKING:
    from facekd.gallery.calibration import Calibration, Curve

COLOURS = {"unmasked": "tab:blue", "masked": "tab:orange"}


def plot_calibration(target: str | os.PathLike[str], calibration: Calibration) -> None:
    """Save the picture; the suffix of `target` says the format.

    Left: how the cosines of mated and non-mated comparisons are distributed. Right: FNMR over FMR, the measured points
    with their 95 % intervals over people; crosses are points that rest on too few pairs of people.
    """
    figure, (left, right) = new_figure(10, 4.5, columns=2)
    for kind, curve in (("unmasked", calibration.unmasked), ("masked", calibration.masked)):
        if curve is not None:
            _distributions(left, curve, kind)
            _trade_off(right, calibration, curve, kind)
    left.set(xlabel="cosine", ylabel="share, all pairs of people alike", title=calibration.source)
    right.set(xlabel="false-match rate", ylabel="false-non-match rate", xscale="log", yscale="log")
    for axes in (left, right):
        axes.grid(True, which="both", alpha=0.3)
        axes.legend()
    save_figure(figure, target)


def _distributions(axes: Any, curve: Curve, kind: str) -> None:
    for histogram, style, name in (
        (curve.non_mated_histogram, "-", "non-mated"),
        (curve.mated_histogram, "--", "mated"),
    ):
        if sum(histogram):
            edges = np.linspace(-1, 1, len(histogram) + 1)
            axes.stairs(
                np.array(histogram) / sum(histogram), edges, color=COLOURS[kind], ls=style, label=f"{name}, {kind}"
            )


def _trade_off(axes: Any, calibration: Calibration, curve: Curve, kind: str) -> None:
    if sum(curve.mated_histogram) and sum(curve.non_mated_histogram):
        fmr = np.cumsum(curve.non_mated_histogram[::-1]) / sum(curve.non_mated_histogram)
        fnmr = 1 - np.cumsum(curve.mated_histogram[::-1]) / sum(curve.mated_histogram)
        shown = (fmr >= curve.points[-1].fmr) & (fnmr > 0)
        axes.plot(fmr[shown], fnmr[shown], color=COLOURS[kind], label=f"{kind}, {curve.people} people")
    for point in curve.points:
        if not point.fnmr or point.fmr_lower is None or point.fmr_upper is None:
            continue
        beyond = calibration.rate(point.threshold, masked=kind == "masked").extrapolated
        axes.errorbar(
            point.fmr,
            point.fnmr,
            xerr=[[point.fmr - point.fmr_lower], [point.fmr_upper - point.fmr]],
            fmt="x" if beyond else "o",
            color=COLOURS[kind],
            markersize=4,
            elinewidth=0.8,
        )
