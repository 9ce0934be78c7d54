"""Calibrating an embedder: which faces are compared with which, for unmasked and for masked probes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.evaluation.calibrate import CALIBRATION_RATES, MeasuredCurve, measure_curve
from facekd.evaluation.masked import draw_mask, mask_kind
from facekd.evaluation.photographs import Photographs
from facekd.evaluation.probe_sets import compare_sets
from facekd.evaluation.progress import Progress, silently
from facekd.recognition.data.screening import near_duplicates
from facekd.recognition.evaluate import CropEmbedder, embed_crops
from facekd.recognition.evaluate_crops import read_crop_table

Embeddings = NDArray[np.float32]
Crop = NDArray[np.uint8]
Change = Callable[[Crop, str], Crop]

SAME_PHOTOGRAPH_COSINE = 0.97
"""Copies of one photograph, in other sizes and compressions, are more alike; two photographs of one person hardly."""


@dataclass(frozen=True, slots=True, eq=False)
class FaceSet:
    """Embedded faces, with what calibration must know of them.

    Attributes:
        embeddings: (N, D) of unit length.
        people: N names; all empty for strangers.
        files: N file names, to speak of a face.
        masked: (N,) the face wears a mask.
        drawn: (N, D) the same faces with a mask drawn on; None where that was not wanted or there are no crops.
    """

    embeddings: Embeddings
    people: tuple[str, ...]
    files: tuple[str, ...]
    masked: NDArray[np.bool_]
    drawn: Embeddings | None = None

    def __len__(self) -> int:
        return len(self.people)

    def where(self, chosen: NDArray[np.bool_]) -> FaceSet:
        """Some of the faces."""
        rows = np.flatnonzero(chosen)
        return FaceSet(
            self.embeddings[rows],
            tuple(self.people[row] for row in rows),
            tuple(self.files[row] for row in rows),
            self.masked[rows],
            None if self.drawn is None else self.drawn[rows],
        )


def read_crops(
    root: str | os.PathLike[str],
    split: str,
    embedder: CropEmbedder,
    draw_masks: bool = True,
    progress: Progress = silently,
    *,
    labelled: bool = True,
) -> FaceSet:
    """The labelled crops of one split of a folder with ``faces.csv``, or those of which nobody knows whom they show.

    Args:
        root: the folder.
        split: of people who were neither trained on nor serve for published figures.
        embedder: ours, or a peer.
        draw_masks: embed the crops with a mask drawn on, too.
        progress: shows how far it is.
        labelled: which of the crops.

    Raises:
        DataError: there is none.
    """
    table = read_crop_table(root, "faces.csv", split)
    chosen = [
        (row, name) for row, name in zip(table.rows, table.column("identity"), strict=True) if bool(name) == labelled
    ]
    if not chosen:
        raise DataError(f"The split {split} in {root} has no crops {'with' if labelled else 'without'} a name")
    archives: dict[str, Photographs] = {}

    def crops(doing: str, change: Change) -> Iterator[tuple[str, Crop]]:
        for number in progress(range(len(chosen)), doing):
            row = chosen[number][0]
            yield str(number), change(table.crop(row, archives), row["file"])

    def embedded(doing: str, change: Change) -> Embeddings:
        return np.stack([row for row in embed_crops(embedder, crops(doing, change)).values() if row is not None])

    return FaceSet(
        embedded("embedding", lambda crop, _: crop),
        tuple(name for _, name in chosen),
        tuple(row["file"] for row, _ in chosen),
        np.zeros(len(chosen), np.bool_),
        embedded("masking", lambda crop, file: draw_mask(crop, mask_kind(file))) if draw_masks else None,
    )


def calibrate_crops(
    root: str | os.PathLike[str],
    split: str,
    embedder: CropEmbedder,
    masked: bool = True,
    replicates: int = 1000,
    progress: Progress = silently,
) -> dict[str, MeasuredCurve]:
    """Measure the false-match curve on the labelled crops of one split; see `read_crops` and `calibrate_faces`."""
    return calibrate_faces(read_crops(root, split, embedder, masked, progress), replicates=replicates)


def calibrate_faces(
    references: FaceSet, probes: FaceSet | None = None, strangers: FaceSet | None = None, replicates: int = 1000
) -> dict[str, MeasuredCurve]:
    """Measure the false-match curve of unmasked probes, and of masked ones where there are any.

    Every pair of different people weighs alike, however many photographs there are of them; so does every stranger,
    who is one person.

    Args:
        references: who is enrolled; masked ones among them are probes only.
        probes: other photographs, also of people who are not enrolled; None compares the references with each other.
        strangers: people who are none of the others'; screen them first (`screen_strangers`).
        replicates: draws of the bootstrap over people.

    Returns:
        ``{"unmasked": …}``, and ``"masked"``: of real masks where they are enough for a curve, else of drawn ones.

    Raises:
        DataError: fewer than two people, or too few comparisons.
    """
    enrolled = references.where(~references.masked)
    others = probes if probes is not None else references
    if len({*enrolled.people, *others.people}) < 2:
        raise DataError(
            f"{len(set(enrolled.people))} people are labelled; a calibration needs at least two, better fifty"
        )
    plain = None if probes is None else probes.where(~probes.masked)
    unknown = None if strangers is None else strangers.where(~strangers.masked)
    curves = {"unmasked": _measure(enrolled, plain, unknown, replicates)}
    covered = others.where(others.masked)
    if len(covered):
        hidden = None if strangers is None else strangers.where(strangers.masked)
        with suppress(DataError):  # a few masks make no curve: drawn ones do
            curves["masked"] = _measure(enrolled, covered, hidden, replicates)
    if "masked" not in curves:
        drawn = _with_masks(plain if plain is not None else enrolled)
        if drawn is not None:
            unknown = None if unknown is None else _with_masks(unknown)
            curves["masked"] = _measure(enrolled, drawn, unknown, replicates, own_versions=probes is None)
    return curves


def screen_strangers(references: FaceSet, strangers: FaceSet) -> tuple[FaceSet, tuple[str, ...]]:
    """Leave out of the strangers' photographs those that are there twice, or among the references.

    Copies pass for evidence that there is not, and a copy of a reference is no stranger.

    Returns:
        The strangers who remain, and the files left out.
    """
    first = near_duplicates(strangers.embeddings, threshold_cosine=SAME_PHOTOGRAPH_COSINE)
    copies = first != np.arange(len(first))
    if len(references):
        copies |= (strangers.embeddings @ references.embeddings.T).max(axis=1) >= SAME_PHOTOGRAPH_COSINE
    left_out = tuple(file for file, copy in zip(strangers.files, copies, strict=True) if copy)
    return strangers.where(~copies), left_out


def most_alike(references: FaceSet, strangers: FaceSet, count: int = 5) -> list[tuple[str, str, float]]:
    """The strangers most like somebody enrolled, as (file, person, cosine): one who is enrolled would be among them."""
    if not len(references) or not len(strangers):
        return []
    cosines = strangers.embeddings @ references.embeddings.T
    order = np.argsort(-cosines.max(axis=1), kind="stable")[:count]
    return [
        (strangers.files[row], references.people[int(cosines[row].argmax())], float(cosines[row].max()))
        for row in order
    ]


def _measure(
    references: FaceSet,
    probes: FaceSet | None,
    strangers: FaceSet | None,
    replicates: int,
    own_versions: bool = False,
) -> MeasuredCurve:
    pairs, design = compare_sets(
        references.embeddings,
        references.people,
        None if probes is None else probes.embeddings,
        () if probes is None else probes.people,
        strangers=strangers.embeddings if strangers is not None and len(strangers) else None,
        max_far=max(CALIBRATION_RATES),
        own_versions=own_versions,
    )
    return measure_curve(pairs, replicates, design)


def _with_masks(faces: FaceSet) -> FaceSet | None:
    return None if faces.drawn is None else replace(faces, embeddings=faces.drawn)
