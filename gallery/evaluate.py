"""Open-set identification with the decisions of the gallery: what `--fpir` promises, and what came of it.

The thresholds come from one set of people (`val`), the judgement from others (`test`, LFW). The arithmetic is in
`facekd.evaluation.open_set`; the promises are those of :func:`facekd.gallery.decision.limit_for`, to the letter.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facekd.errors import ConfigError, DataError
from facekd.evaluation.calibrate import CALIBRATION_RATES, measure_curve
from facekd.evaluation.lfw import LfwPhotographs, person_of, read_landmarks
from facekd.evaluation.open_set import OpenSetFigures, Stated, open_set_figures
from facekd.evaluation.photographs import Photographs
from facekd.evaluation.probe_sets import compare_sets
from facekd.evaluation.progress import Progress, silently
from facekd.gallery.calibration import Calibration, from_curves
from facekd.gallery.decision import MIN_MARGIN, limit_for
from facekd.gallery.fusion import Fusion, fusible
from facekd.images import load_image
from facekd.recognition.align import align_face
from facekd.recognition.evaluate import CropEmbedder, embed_crops
from facekd.recognition.evaluate_crops import CropTable, crop_embeddings, read_crop_table
from facekd.whole_files import whole_file

Embeddings = npt.NDArray[np.float32]

SIZES = (100, 1000)
SAME_PERSON_COSINE = 0.6
"""Of the screening model: a crop without a name that is so much like a labelled person shows that person."""


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """Embedded crops: (N, D), and N names, empty where nobody knows."""

    embeddings: Embeddings
    identities: list[str]


class Embedding:
    """Embeds crops and LFW, and keeps the embeddings for the next run where it is told to.

    Args:
        embedder: ours, or a peer; None with `stored`.
        label: names the embedder's files; its contract, so that another model never gets them.
        keep: folder for the embeddings; None keeps nothing. Files are named by what the pictures hold, too.
        stored: embeddings of the crops (.npy, a row for each line of ``faces.csv``), in place of an embedder.
        progress: shows how far it is.
    """

    def __init__(
        self,
        embedder: CropEmbedder | None,
        label: str,
        keep: str | os.PathLike[str] | None = None,
        stored: str | os.PathLike[str] | None = None,
        progress: Progress = silently,
    ) -> None:
        self._embedder = embedder
        self._label = label
        self._stored = stored
        self._keep = None if keep is None else Path(keep)
        self._progress = progress

    def crops(self, root: str | os.PathLike[str], split: str) -> People:
        """The crops of one split of a folder with ``faces.csv``."""
        table = read_crop_table(root, "faces.csv", split)

        def embed() -> Embeddings:
            return crop_embeddings(table, self._embedder, progress=self._progress)

        if self._stored is not None:
            rows = crop_embeddings(table, None, self._stored)
            return People(_unit_length(rows), table.column("identity"))
        data = f"{Path(root).resolve().name}-{split}"
        rows = self._kept(data, _pictures_of(table), len(table.rows), embed)
        return People(rows, table.column("identity"))

    def lfw(self, root: str | os.PathLike[str]) -> People:
        """The photographs of LFW, aligned from ``landmarks.csv``.

        Raises:
            ConfigError: there is no embedder for them.
        """
        embedder = self._embedder
        if embedder is None:
            raise ConfigError("LFW needs an embedder: stored embeddings are those of crops")
        root = Path(root)
        photographs = LfwPhotographs(root)
        landmarks = read_landmarks(root / "landmarks.csv")

        def embed() -> Embeddings:
            crops = (
                (name, align_face(load_image(photographs.read(name)), points.astype(np.float32)))
                for name, points in self._progress(landmarks.items(), "embedding LFW")
            )
            rows = embed_crops(embedder, crops).values()
            return np.stack([row for row in rows if row is not None])

        made_of = chain(
            (str(points.tolist()).encode() for points in landmarks.values()), map(photographs.read, landmarks)
        )
        rows = self._kept("lfw", made_of, len(landmarks), embed)
        return People(rows, [person_of(name) for name in landmarks])

    def _kept(self, data: str, made_of: Iterable[bytes], rows: int, embed: Callable[[], Embeddings]) -> Embeddings:
        if self._keep is None:
            return embed()
        path = self._keep / f"{self._label}-{data}-{_digest(made_of)}.npy"
        stored = _read_rows(path, rows)
        if stored is not None:
            return stored
        embeddings = embed()
        self._keep.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            np.save(part, embeddings)
        return embeddings


def calibrate_people(people: People, contract: str, source: str, replicates: int = 1000) -> Calibration:
    """A calibration of unmasked probes from labelled crops."""
    labelled = [row for row, name in enumerate(people.identities) if name]
    names = [people.identities[row] for row in labelled]
    if len(set(names)) < 2:
        raise DataError(f"{source} has fewer than two labelled people; nothing to calibrate on")
    pairs, design = compare_sets(people.embeddings[labelled], names, max_far=max(CALIBRATION_RATES))
    return from_curves(contract, source, {"unmasked": measure_curve(pairs, replicates, design)})


def open_set_of(
    people: People,
    calibration: Calibration,
    fpir: float,
    *,
    sizes: Sequence[int] = SIZES,
    draws: int = 20,
    templates_each: int = 3,
    fusion: Fusion = "none",
    same_person: npt.NDArray[np.bool_] | None = None,
) -> list[OpenSetFigures]:
    """Identify half of the people among strangers, with the gallery's thresholds.

    Args:
        people: crops without a name fill the gallery up.
        calibration: made on other people.
        fpir: what `identify --fpir` is given.
        sizes: templates in the gallery; the largest possible is added.
        draws: of the people who are enrolled.
        templates_each: photographs enrolled a person.
        fusion: as in the enrolment policy, with equal weights.
        same_person: (N,) crops without a name that show a labelled person: left out.
    """
    nameless = np.array([not name for name in people.identities])
    if same_person is not None:
        nameless &= ~same_person

    def state(templates: int) -> Stated:
        limit = limit_for(calibration, fpir, templates, None)
        return Stated(limit.threshold, limit.error, limit.upper, limit.extrapolated)

    return open_set_figures(
        people.embeddings,
        people.identities,
        sizes,
        state,
        min_margin=MIN_MARGIN,
        templates_each=templates_each,
        draws=draws,
        filling=np.flatnonzero(nameless),
        fusion=fusion,
        fusible=fusible,
    )


def shows_labelled_person(screening: Embeddings, identities: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which crops without a name another model takes for a labelled person: (N,).

    Such a match would be right, not wrong. It has to be another model: the one under test must not choose its own
    questions.

    Args:
        screening: (N, D) of any length, as networks and files give them.
        identities: N names, empty where nobody knows.

    Raises:
        DataError: a row has no direction.
    """
    known = np.array([bool(name) for name in identities])
    best = np.full(len(known), -1.0, np.float32)
    if known.any() and not known.all():
        rows = _unit_length(screening)
        best[~known] = (rows[~known] @ rows[known].T).max(axis=1)
    return np.asarray(best >= SAME_PERSON_COSINE)


def _unit_length(rows: Embeddings) -> Embeddings:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(wrong):
        raise DataError(
            f"embedding {wrong[0]} of {len(rows)} has length {lengths[wrong[0], 0]:g} and says nothing: make them again"
        )
    return np.asarray(rows / lengths)


def _pictures_of(table: CropTable) -> Iterator[bytes]:
    """The files of a table's crops, in its order."""
    archives: dict[str, Photographs] = {}
    for row in table.rows:
        shard = row.get("shard") or "."
        if shard not in archives:
            archives[shard] = Photographs(table.root / shard)
        yield archives[shard].read(row["file"])


def _digest(parts: Iterable[bytes]) -> str:
    """16 hexadecimal digits over contents in their order; reading them takes seconds where embedding takes minutes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _read_rows(path: Path, rows: int) -> Embeddings | None:
    """Kept embeddings; None where there are none, or the file is damaged."""
    try:
        stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(stored, np.float32) if stored.ndim == 2 and len(stored) == rows else None
