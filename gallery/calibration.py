"""Which cosine means which error rate: the calibration artefact of one embedder, and how it is read.

Between the measured points log10(FMR) is linear in the threshold. Beyond the last one the line of the last decade goes
on, and the answer is marked as extrapolated: non-mated cosines fall off about as a normal distribution does, faster
than any straight line in this picture, so the line errs towards too high a threshold. What it cannot foresee is a
relative or a twin.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from facekd.errors import ConfigError, FacekdError
from facekd.evaluation.verification import rate_label
from facekd.whole_files import write_whole
from facekd.zoo import Calibration as ZooCalibration
from facekd.zoo import FalseMatchCurve, load_manifest

if TYPE_CHECKING:
    from facekd.evaluation.calibrate import MeasuredCurve

LEAST_PEOPLE_PAIRS = 10
"""A point whose false matches come from fewer different pairs of people shows those people, not the rate."""

ROUNDING = 1e-9
"""A threshold that was itself read off a point may come back this far beyond it."""

WEIGHING = "all pairs of people weigh alike"
"""What an artefact's source says of how it was measured; those without it counted comparisons."""

FORMAT: Literal["facekd calibration 1"] = "facekd calibration 1"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(_Frozen):
    """One measured point of the false-match curve."""

    fmr: float = Field(gt=0, lt=1)
    """Share of non-mated comparisons at or above the threshold, where all pairs of different people weigh alike."""
    threshold: float = Field(ge=-1, le=1)
    """Cosine."""
    fmr_lower: float | None = Field(default=None, ge=0, le=1)
    """Lower end of the 95 % interval from a bootstrap over people."""
    fmr_upper: float | None = Field(default=None, ge=0, le=1)
    """Upper end of that interval."""
    fnmr: float | None = Field(default=None, ge=0, le=1)
    """Share of mated comparisons below the threshold, where all people weigh alike."""
    people_pairs: int | None = Field(default=None, ge=0)
    """How many different pairs of people the false matches come from."""


class Curve(_Frozen):
    """False matches by threshold for one kind of probe.

    ``points`` fall in FMR and rise in threshold.
    """

    points: tuple[Point, ...] = Field(min_length=2)
    people: int = Field(ge=0)
    pairs: int = Field(ge=0)
    """Non-mated comparisons."""
    effective: int | None = Field(default=None, gt=0)
    """How many of equal weight would show a rate as exactly as these do, among which some weigh more than others."""
    mated_pairs: int = Field(default=0, ge=0)
    non_mated_histogram: tuple[int, ...] = ()
    """Non-mated comparisons by cosine, in equal bins over -1..1, weighed as in the points; empty where not kept.

    Not what was counted, but what would have been, had as many comparisons been spread evenly over the pairs of people.
    """
    mated_histogram: tuple[int, ...] = ()
    """The same of the mated comparisons, spread evenly over the people."""

    @model_validator(mode="after")
    def _ordered(self) -> Curve:
        for left, right in zip(self.points, self.points[1:], strict=False):
            if not (left.fmr > right.fmr and left.threshold < right.threshold):
                raise ValueError("points must fall in fmr and rise in threshold")
        return self

    @property
    def least_upper_bound(self) -> float:
        """The rule of three: no false match in n comparisons of equal weight leaves a rate of 3/n possible (95 %)."""
        return min(1.0, 3.0 / max(1, self.pairs if self.effective is None else self.effective))


@dataclass(frozen=True, slots=True)
class Rate:
    """An FMR read off a curve.

    Attributes:
        value: the rate.
        upper: upper end of its 95 % interval; None where the curve has no intervals.
        extrapolated: beyond what the data shows.
    """

    value: float
    upper: float | None
    extrapolated: bool


class Calibration(_Frozen):
    """The calibration artefact: thresholds of one embedder, with where they come from."""

    format: Literal["facekd calibration 1"] = FORMAT
    contract: str
    """The embedder whose cosines these are."""
    source: str
    """What it was measured on, in words."""
    unmasked: Curve
    masked: Curve | None = None
    """Masked probes against unmasked references, where there were enough of them."""

    def curve(self, *, masked: bool = False) -> Curve:
        """The curve for a kind of probe; masked probes without one of their own share the other."""
        return self.masked if masked and self.masked is not None else self.unmasked

    def threshold(self, fmr: float, *, masked: bool = False) -> float:
        """The cosine at which the FMR is ``fmr``.

        Above the largest measured rate the first threshold is returned: better too strict. A result above 1 means that
        no probe can be good enough.
        """
        if not 0.0 < fmr < 1.0:
            raise ConfigError(f"a false-match rate must lie between 0 and 1, got {fmr}")
        thresholds, logs = _axes(self.curve(masked=masked))
        wanted = math.log10(fmr)
        if wanted < logs[-1]:
            return float(thresholds[-1] + (wanted - logs[-1]) / _slope(thresholds, logs))
        return float(np.interp(-wanted, -logs, thresholds))

    def rate(self, threshold: float, *, masked: bool = False) -> Rate:
        """The FMR at a cosine, with the upper end of its interval.

        Beyond the data the upper end is never below `Curve.least_upper_bound`; pairs of few people, which depend on
        each other, would leave more possible.
        """
        curve = self.curve(masked=masked)
        thresholds, logs = _axes(curve)
        if threshold < thresholds[0] - ROUNDING:
            return Rate(1.0, 1.0, True)
        last = curve.points[-1]
        uppers = [point.fmr_upper for point in curve.points]
        known = [
            math.log10(max(upper, point.fmr))
            for upper, point in zip(uppers, curve.points, strict=True)
            if upper is not None
        ]
        bounded = len(known) == len(curve.points)
        thin = _thin_from(curve)
        if threshold <= last.threshold + ROUNDING:
            value = 10.0 ** float(np.interp(threshold, thresholds, logs))
            upper = 10.0 ** float(np.interp(threshold, thresholds, known)) if bounded else None
            return Rate(value, upper, thin is not None and threshold > thin + ROUNDING)
        value = 10.0 ** float(logs[-1] + (threshold - thresholds[-1]) * _slope(thresholds, logs))
        upper = max(value * 10.0 ** (known[-1] - logs[-1]), curve.least_upper_bound) if bounded else None
        return Rate(value, upper, True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artefact as JSON."""
        write_whole(path, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read an artefact.

        Raises:
            ConfigError: it cannot be read or is no calibration.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise ConfigError(f"the calibration {path} cannot be read: {error.strerror or error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"{path} is no calibration ({where}: {first['msg']}): make one with `facekd calibrate`"
            ) from error


def from_curves(contract: str, source: str, curves: Mapping[str, MeasuredCurve]) -> Calibration:
    """The artefact of what was measured: ``unmasked``, and ``masked`` where it is there.

    Its source says, beside `source`, that pairs of people weigh alike.

    Raises:
        ConfigError: there is no curve of unmasked probes.
    """
    made = {
        kind: Curve(
            points=_rounded(curve),
            people=curve.people,
            pairs=curve.pairs,
            effective=curve.effective,
            mated_pairs=curve.mated_pairs,
            non_mated_histogram=curve.non_mated_histogram,
            mated_histogram=curve.mated_histogram,
        )
        for kind, curve in curves.items()
    }
    if "unmasked" not in made:
        raise ConfigError("a calibration needs comparisons of unmasked faces")
    return Calibration(
        contract=contract, source=f"{source}; {WEIGHING}", unmasked=made["unmasked"], masked=made.get("masked")
    )


def from_zoo(record: ZooCalibration, contract: str) -> Calibration | None:
    """The calibration of a manifest, or None where it has fewer than two thresholds; see `to_zoo`."""
    unmasked = _curve_of(record)
    if unmasked is None:
        return None
    masked = None if record.masked is None else _curve_of(record.masked)
    return Calibration(contract=contract, source=record.source or "the manifest", unmasked=unmasked, masked=masked)


def to_zoo(calibration: Calibration) -> ZooCalibration:
    """What a manifest keeps of an artefact: all that `Calibration.rate` and `Calibration.threshold` read.

    The share of mated pairs refused and the distributions of the scores stay behind.
    """
    masked = None if calibration.masked is None else FalseMatchCurve(**_recorded(calibration.masked))
    return ZooCalibration(source=calibration.source, masked=masked, **_recorded(calibration.unmasked))


def shipped_calibration(contract: str) -> Calibration | None:
    """The calibration that came with an embedder; None where no packaged model has that contract."""
    try:
        models = load_manifest().models.values()
    except FacekdError:
        return None  # a gallery can be listed, exported and checked without any model
    for model in models:
        if model.task == "embedder" and model.contract == contract and model.calibration is not None:
            return from_zoo(model.calibration, contract)
    return None


def _rounded(measured: MeasuredCurve) -> tuple[Point, ...]:
    """The points, with six decimals of cosine and three digits of an interval: people read them in manifests."""
    points = tuple(Point(**asdict(point)) for point in measured.points)
    thresholds = [round(point.threshold, 6) for point in points]
    if any(left >= right for left, right in pairwise(thresholds)):
        return points
    return tuple(
        point.model_copy(
            update={
                "threshold": threshold,
                "fmr_lower": None if point.fmr_lower is None else min(float(f"{point.fmr_lower:.3g}"), point.fmr),
                "fmr_upper": None if point.fmr_upper is None else max(float(f"{point.fmr_upper:.3g}"), point.fmr),
            }
        )
        for point, threshold in zip(points, thresholds, strict=True)
    )


def _curve_of(record: FalseMatchCurve) -> Curve | None:
    points = tuple(
        Point(
            fmr=float(rate),
            threshold=threshold,
            fmr_lower=record.fmr_lower.get(rate),
            fmr_upper=record.fmr_upper.get(rate),
            people_pairs=record.people_pairs.get(rate),
        )
        for rate, threshold in sorted(record.thresholds.items(), key=lambda item: -float(item[0]))
    )
    if len(points) < 2:
        return None
    return Curve(points=points, people=record.people or 0, pairs=record.pairs or 0, effective=record.effective)


def _recorded(curve: Curve) -> dict[str, Any]:
    """The values of a `FalseMatchCurve`; a point without an interval or a count has no entry there."""
    labelled = [(_label(point.fmr), point) for point in curve.points]
    tables = {
        name: {label: value for label, point in labelled if (value := getattr(point, name)) is not None}
        for name in ("fmr_lower", "fmr_upper", "people_pairs")
    }
    thresholds = {label: point.threshold for label, point in labelled}
    counts = {"people": curve.people, "pairs": curve.pairs, "effective": curve.effective}
    return {**counts, "thresholds": thresholds, **tables}


def _label(rate: float) -> str:
    """A rate as a key that is read back as the same number: ``1e-3``, or all its digits where it is not a round one."""
    label = rate_label(rate)
    return label if float(label) == rate else repr(rate)


def _thin_from(curve: Curve) -> float | None:
    """The threshold beyond which points rest on too few pairs of people; None where all are well founded."""
    for left, right in zip(curve.points, curve.points[1:], strict=False):
        if right.people_pairs is not None and right.people_pairs < LEAST_PEOPLE_PAIRS:
            return left.threshold
    return None


def _axes(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    thresholds = np.array([point.threshold for point in curve.points])
    return thresholds, np.log10([point.fmr for point in curve.points])


def _slope(thresholds: np.ndarray, logs: np.ndarray) -> float:
    """Decades a cosine over the last measured decade (a negative number), or over all points where they span less."""
    start = int(np.searchsorted(-logs, -(logs[-1] + 1.0), side="right")) - 1
    start = min(max(start, 0), len(logs) - 2)
    return float((logs[-1] - logs[start]) / (thresholds[-1] - thresholds[start]))
