"""Calibrating an embedder on a folder of labelled crops: unmasked comparisons, and masked probes."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.evaluation.all_pairs import AllPairs, compare_all, compare_probes
from facekd.evaluation.calibrate import CALIBRATION_RATES, CalibrationPoint, calibration_points
from facekd.evaluation.masked import draw_mask, mask_kind
from facekd.evaluation.photographs import Photographs
from facekd.evaluation.progress import Progress, silently
from facekd.recognition.evaluate import CropEmbedder, embed_crops
from facekd.recognition.evaluate_crops import read_crop_table


@dataclass(frozen=True, slots=True)
class MeasuredCurve:
    """Points of a false-match curve, and how many people and comparisons they rest on."""

    points: list[CalibrationPoint]
    people: int
    pairs: int
    mated_pairs: int


def calibrate_crops(
    root: str | os.PathLike[str],
    split: str,
    embedder: CropEmbedder,
    masked: bool = True,
    replicates: int = 200,
    progress: Progress = silently,
) -> dict[str, MeasuredCurve]:
    """Measure the false-match curve on the labelled crops of one split.

    Args:
        root: folder with ``faces.csv``.
        split: of people who were neither trained on nor serve for published figures.
        embedder: whose cosines are calibrated.
        masked: also compare unmasked references with probes on which a mask is drawn.
        replicates: draws of the bootstrap over people.
        progress: shows how far it is.

    Returns:
        ``{"unmasked": …}`` and, if asked for, ``"masked"``.

    Raises:
        DataError: fewer than two people are labelled, or too few comparisons.
    """
    table = read_crop_table(root, "faces.csv", split)
    names = table.column("identity")
    labelled = [(row, name) for row, name in zip(table.rows, names, strict=True) if name]
    identities = [name for _, name in labelled]
    if len(set(identities)) < 2:
        raise DataError(f"The split {split} in {root} has fewer than two labelled people; nothing to calibrate on")
    archives: dict[str, Photographs] = {}

    def stream(number: int) -> NDArray[np.uint8]:
        return table.crop(labelled[number][0], archives)

    numbers = range(len(labelled))
    plain = embed_crops(embedder, ((str(k), stream(k)) for k in progress(numbers, "embedding")))
    references = _matrix(plain)
    most = max(CALIBRATION_RATES)
    curves = {"unmasked": _measured(compare_all(references, identities, most), len(set(identities)), replicates)}
    if masked:
        covered = (
            (str(k), draw_mask(stream(k), mask_kind(labelled[k][0]["file"]))) for k in progress(numbers, "masking")
        )
        probes = _matrix(embed_crops(embedder, covered))
        pairs = compare_probes(references, probes, identities, most)
        curves["masked"] = _measured(pairs, len(set(identities)), replicates)
    return curves


def _matrix(embedded: dict[str, NDArray[np.float32] | None]) -> NDArray[np.float32]:
    return np.stack([vector for vector in embedded.values() if vector is not None])


def _measured(pairs: AllPairs, people: int, replicates: int) -> MeasuredCurve:
    points = calibration_points(pairs, replicates=replicates)
    return MeasuredCurve(points, people, pairs.non_mated, len(pairs.mated.scores))
