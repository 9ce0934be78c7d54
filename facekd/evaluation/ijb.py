"""IJB-B and IJB-C, one to one: templates of several photographs and frames.

Maze et al. 2018, "IARPA Janus Benchmark - C: Face Dataset and Protocol" (ICB).

Read are the three lists in the form in which the sets are passed round with aligned evaluation in mind:

* ``…_face_tid_mid.txt``: ``file template media``, one line a face;
* ``…_template_pair_label.txt``: ``template template label``, 1 for one person;
* ``…_name_5pts_score.txt``: ``file`` and five points ``x y``, and a detection score, in the order of the first list.

A template's embedding is the sum over its media of the mean over a medium's faces (all frames of one video are one
medium), normalised to length 1; each face weighs by its detection score.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.evaluation.verification import equal_error_rate, rate_label, tar_at_far

RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True, slots=True, eq=False)
class IjbProtocol:
    """Faces, templates and comparisons.

    Attributes:
        files: N file names of faces.
        templates, media: (N,) int64 of each face.
        landmarks: (N, 5, 2) float32 in pixels of the file.
        detection_scores: (N,) float32.
        pairs: (P, 2) int64 templates compared.
        same: (P,) bool.
    """

    files: tuple[str, ...]
    templates: NDArray[np.int64]
    media: NDArray[np.int64]
    landmarks: NDArray[np.float32]
    detection_scores: NDArray[np.float32]
    pairs: NDArray[np.int64]
    same: NDArray[np.bool_]


def read_ijb(root: str | os.PathLike[str]) -> IjbProtocol:
    """Read the three lists in ``root/meta``.

    Raises:
        DataError: a list is missing, not in the form, or they do not fit each other.
    """
    meta = Path(root) / "meta"
    faces = _rows(meta, "_face_tid_mid.txt", 3)
    points = _rows(meta, "_name_5pts_score.txt", 12)
    pairs = _rows(meta, "_template_pair_label.txt", 3)
    if [row[0] for row in faces] != [row[0] for row in points]:
        raise DataError(f"The lists of faces and of landmarks in {meta} do not name the same files in the same order")
    try:
        numbers = np.array([row[1:] for row in faces], np.int64).reshape(-1, 2)
        places = np.array([row[1:] for row in points], np.float32).reshape(-1, 11)
        compared = np.array(pairs, np.int64).reshape(-1, 3)
    except ValueError as error:
        raise DataError(f"A list in {meta} holds something that is no number: {error}") from error
    mated = int((compared[:, 2] == 1).sum())
    if not mated or mated == len(compared):
        raise DataError(
            f"The pairs in {meta} are {mated} mated and {len(compared) - mated} non-mated ones; error rates need both"
        )
    unknown = np.setdiff1d(compared[:, :2], numbers[:, 0])
    if len(unknown):
        raise DataError(f"Pairs in {meta} name templates without faces: {unknown[:5].tolist()}")
    return IjbProtocol(
        files=tuple(row[0] for row in faces),
        templates=numbers[:, 0],
        media=numbers[:, 1],
        landmarks=places[:, :10].reshape(-1, 5, 2),
        detection_scores=places[:, 10],
        pairs=compared[:, :2],
        same=compared[:, 2] == 1,
    )


def _rows(meta: Path, ending: str, columns: int) -> list[list[str]]:
    found = sorted(meta.glob(f"*{ending}")) if meta.is_dir() else []
    if len(found) != 1:
        raise DataError(
            f"Wanted one file *{ending} in {meta}, found {len(found)}: the lists are those that InsightFace hands out "
            "for IJB-B and IJB-C"
        )
    try:
        rows = [line.split() for line in found[0].read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {found[0]}: {error}") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise DataError(f"{found[0]}, line {number}: {len(row)} columns, wanted {columns}")
    return rows


def template_embeddings(
    embeddings: NDArray[np.floating[Any]],
    templates: NDArray[np.int64],
    media: NDArray[np.int64],
    weights: NDArray[np.floating[Any]] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """One embedding for each template.

    Args:
        embeddings: (N, D) of unit length, or zeros where a face could not be embedded.
        templates, media: (N,) of each face.
        weights: (N,) of each face; None: all 1.

    Returns:
        (template numbers (T,), rising; embeddings (T, D) float32 of unit length, zeros where nothing was embedded).
    """
    weighted = embeddings.astype(np.float32) * (1.0 if weights is None else weights.astype(np.float32)[:, None])
    order = np.lexsort((media, templates))
    sorted_templates, sorted_media = templates[order], media[order]
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(sorted_templates) != 0) | (np.diff(sorted_media) != 0)
    starts = np.flatnonzero(new)
    if not len(starts):
        return np.empty(0, np.int64), np.empty((0, embeddings.shape[1]), np.float32)
    counts = np.diff(np.append(starts, len(order)))
    means = np.add.reduceat(weighted[order], starts, axis=0) / counts[:, None]
    numbers, first = np.unique(sorted_templates[starts], return_index=True)
    sums = np.add.reduceat(means, first, axis=0)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return numbers, (sums / np.where(lengths > 0, lengths, 1)).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class IjbScores:
    """What came of the protocol's comparisons.

    Attributes:
        scores: (P,) float32 cosines between templates.
        same: (P,) bool.
        templates: how many there are.
    """

    scores: NDArray[np.float32]
    same: NDArray[np.bool_]
    templates: int

    def figures(self) -> dict[str, Any]:
        """``{"tar": {"1e-1", …, "1e-6"}, "eer", "templates", "pairs"}``.

        Rates that the non-mated comparisons cannot show are left out.
        """
        mated, non_mated = self.scores[self.same], self.scores[~self.same]
        shown = [rate for rate in RATES if rate * len(non_mated) >= 1]
        return {
            "tar": {rate_label(rate): tar_at_far(mated, non_mated, rate).tar for rate in shown},
            "eer": equal_error_rate(mated, non_mated),
            "templates": self.templates,
            "pairs": len(self.scores),
        }


def ijb_scores(protocol: IjbProtocol, embeddings: NDArray[np.floating[Any]], chunk: int = 100_000) -> IjbScores:
    """Cosines of the protocol's comparisons, each face weighted by its detection score.

    Args:
        protocol: the lists.
        embeddings: (N, D), one for each face, of unit length or zeros.
        chunk: comparisons at a time.
    """
    numbers, matrix = template_embeddings(embeddings, protocol.templates, protocol.media, protocol.detection_scores)
    left, right = (np.searchsorted(numbers, protocol.pairs[:, side]) for side in (0, 1))
    scores = np.empty(len(left), np.float32)
    for start in range(0, len(left), chunk):
        part = slice(start, start + chunk)
        scores[part] = (matrix[left[part]] * matrix[right[part]]).sum(axis=1)
    return IjbScores(scores, protocol.same, len(numbers))
