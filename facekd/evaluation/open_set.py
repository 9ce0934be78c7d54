"""Open-set identification: how often strangers are given a name, and how often enrolled people are not.

Terms are those of ISO/IEC 19795-1. FPIR is the share of probes of people who are not enrolled that return a candidate;
here a probe that is told to try again counts as one, since somebody was found. FNIR is the share of probes of enrolled
people that are not given their own name; here, too, "try again" counts as an error. So neither rate gains from answers
withheld, and they stand side by side: a low FPIR that is bought with misses shows.

Half of the people are enrolled, the others are the impostors, and this is drawn anew several times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError

Embeddings = NDArray[np.float32]
Fusion = Literal["none", "beside", "instead"]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stated:
    """What a system says of a gallery of one size: its threshold, the FPIR, the upper end of its interval."""

    threshold: float
    fpir: float | None
    fpir_upper: float | None
    extrapolated: bool


@dataclass(frozen=True, slots=True)
class OpenSetFigures:
    """What was stated and what was observed for one size of the gallery; figures are means over the draws.

    Attributes:
        templates: photographs in the gallery.
        people: enrolled with a name or without, mean over the draws.
        threshold: cosine.
        fpir_stated, fpir_upper: what the system says of its error; None where it cannot.
        extrapolated: the system says, in one draw at least, that its data cannot show so small a rate.
        fpir: share of strangers' probes for which somebody was found.
        fpir_highest: the same in the worst draw.
        fnir: share of enrolled people's probes that were not given the right name.
        misidentified: share of enrolled people's probes that were given another person's name.
        impostor_probes, mated_probes: how many in all draws.
    """

    templates: int
    people: float
    threshold: float
    fpir_stated: float | None
    fpir_upper: float | None
    extrapolated: bool
    fpir: float
    fpir_highest: float
    fnir: float
    misidentified: float
    impostor_probes: int
    mated_probes: int

    @property
    def kept(self) -> bool:
        """The observed FPIR is at or below the stated upper bound."""
        return self.fpir_upper is not None and self.fpir <= self.fpir_upper

    def to_dict(self) -> dict[str, Any]:
        """One row of the JSON of ``facekd evaluate open-set``."""
        return {**asdict(self), "kept": self.kept}


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One draw: rows of the embeddings by role.

    Attributes:
        templates: (T,) who is enrolled, person after person in random order; those without a name come last.
        owners: (T,) number of the person of each template, from 0 and never falling.
        mated: (M,) probes of enrolled people.
        mated_owners: (M,) their numbers.
        impostors: (I,) probes of people who are not enrolled.
    """

    templates: Rows
    owners: Rows
    mated: Rows
    mated_owners: Rows
    impostors: Rows


def draw_trial(
    identities: Sequence[str], templates_each: int, rng: np.random.Generator, filling: Rows | None = None
) -> Trial:
    """Enrol half of the people.

    Args:
        identities: N names, empty where nobody knows; those rows take part only as `filling`.
        templates_each: photographs enrolled of each person at most; one is always left as a probe where there are two.
        rng: draws the people and their photographs.
        filling: rows of people without a name (each taken as another person) that fill the gallery up.

    Raises:
        DataError: fewer than two people.
    """
    names = np.array(identities, dtype=object)
    people = np.unique([name for name in identities if name])
    if len(people) < 2:
        raise DataError(f"{len(people)} people are labelled; open-set identification needs at least two")
    order = rng.permutation(len(people))
    enrolled, strangers = order[: len(order) // 2], order[len(order) // 2 :]
    templates: list[int] = []
    owners: list[int] = []
    mated: list[int] = []
    mated_owners: list[int] = []
    for number, person in enumerate(enrolled):
        rows = rng.permutation(np.flatnonzero(names == people[person]))
        count = min(templates_each, max(1, len(rows) - 1))
        templates += rows[:count].tolist()
        owners += [number] * count
        mated += rows[count:].tolist()
        mated_owners += [number] * (len(rows) - count)
    if filling is not None:
        templates += rng.permutation(filling).tolist()
        owners += range(len(enrolled), len(enrolled) + len(filling))
    impostors = np.flatnonzero(np.isin(names, people[strangers]))
    return Trial(*(np.array(rows, np.int64) for rows in (templates, owners, mated, mated_owners, impostors)))


def open_set_figures(
    embeddings: Embeddings,
    identities: Sequence[str],
    sizes: Sequence[int],
    state: Callable[[int], Stated],
    *,
    min_margin: float,
    templates_each: int = 3,
    draws: int = 20,
    seed: int = 0,
    filling: Rows | None = None,
    fusion: Fusion = "none",
    fusible: Callable[[Embeddings], NDArray[np.bool_]] | None = None,
) -> list[OpenSetFigures]:
    """Identify in galleries of several sizes, and in the largest that the people allow.

    Args:
        embeddings: (N, D) of unit length.
        identities, templates_each, filling: as for `draw_trial`.
        sizes: photographs in the gallery; a size that cannot be reached is left out.
        state: what the system under test says of a gallery of so many photographs.
        min_margin: cosine by which the best person must lead the next; otherwise it is "try again".
        draws: how often the people are drawn.
        seed: of the draws.
        fusion: whether a person's photographs are compared one by one, or by their mean, or both. A mean counts as the
            photographs that it is made of; who has one photograph has no mean.
        fusible: which of one person's photographs (n, D) are fused, (n,); None fuses all.

    Returns:
        One entry a size, rising; the largest possible last.
    """
    rng = np.random.default_rng(seed)
    trials = [draw_trial(identities, templates_each, rng, filling) for _ in range(draws)]
    largest = min(len(trial.templates) for trial in trials)
    wanted = sorted({*(size for size in sizes if 0 < size < largest), largest})
    stated: dict[int, list[Stated]] = {size: [] for size in wanted}
    counts: dict[int, list[_Counts]] = {size: [] for size in wanted}
    for trial in trials:
        probes = embeddings[np.concatenate([trial.impostors, trial.mated])]
        templates = embeddings[trial.templates]
        scores = probes @ templates.T
        for size in wanted:
            owners = trial.owners[:size]
            by_person, further = _best_scores(scores[:, :size], probes, templates[:size], owners, fusion, fusible)
            stated[size].append(state(size + further))
            counts[size].append(_count(by_person, trial, int(owners[-1]), stated[size][-1].threshold, min_margin))
    return [_figures(size, stated[size], counts[size]) for size in wanted]


def _best_scores(
    scores: Embeddings,
    probes: Embeddings,
    templates: Embeddings,
    owners: Rows,
    fusion: Fusion,
    fusible: Callable[[Embeddings], NDArray[np.bool_]] | None,
) -> tuple[Embeddings, int]:
    """Best score of each probe with each person (probes, people), and how many photographs means count beside them."""
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    parts: dict[int, Rows] = {}
    if fusion != "none":
        for person, rows in enumerate(np.split(np.arange(len(owners)), starts[1:])):
            chosen = rows if fusible is None else rows[fusible(templates[rows])]
            if len(chosen) > 1:
                parts[person] = chosen
    if not parts:
        return np.maximum.reduceat(scores, starts, axis=1), 0
    fused = np.concatenate(list(parts.values()))
    if fusion == "instead":
        scores = scores.copy()
        scores[:, fused] = -np.inf
    best = np.maximum.reduceat(scores, starts, axis=1)
    means = np.stack([templates[rows].mean(axis=0) for rows in parts.values()])
    people = list(parts)
    best[:, people] = np.maximum(best[:, people], probes @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T)
    return best, len(fused) if fusion == "beside" else 0


@dataclass(frozen=True, slots=True)
class _Counts:
    people: int
    impostors: int
    found: int
    mated: int
    right: int
    wrong: int


def _count(by_person: Embeddings, trial: Trial, last: int, threshold: float, min_margin: float) -> _Counts:
    """Count the answers; ``by_person`` are scores (probes, people), the last of whom has the number ``last``."""
    best = by_person.argmax(axis=1)
    nobody = np.full((len(by_person), 1), -np.inf, np.float32)
    ordered = np.partition(np.concatenate([nobody, by_person], axis=1), -2, axis=1)[:, -2:]
    found = ordered[:, 1] >= threshold
    named = found & (ordered[:, 1] - ordered[:, 0] >= min_margin)
    strangers = len(trial.impostors)
    present = trial.mated_owners <= last
    right = named[strangers:] & (best[strangers:] == trial.mated_owners)
    wrong = named[strangers:] & ~right
    return _Counts(
        people=by_person.shape[1],
        impostors=strangers,
        found=int(found[:strangers].sum()),
        mated=int(present.sum()),
        right=int((right & present).sum()),
        wrong=int((wrong & present).sum()),
    )


def _figures(size: int, stated: Sequence[Stated], counts: Sequence[_Counts]) -> OpenSetFigures:
    fpirs = [count.found / count.impostors for count in counts]
    mated = [count for count in counts if count.mated]
    return OpenSetFigures(
        templates=size,
        people=float(np.mean([count.people for count in counts])),
        threshold=float(np.mean([each.threshold for each in stated])),
        fpir_stated=_mean([each.fpir for each in stated]),
        fpir_upper=_mean([each.fpir_upper for each in stated]),
        extrapolated=any(each.extrapolated for each in stated),
        fpir=float(np.mean(fpirs)),
        fpir_highest=max(fpirs),
        fnir=float(np.mean([1 - count.right / count.mated for count in mated])) if mated else float("nan"),
        misidentified=float(np.mean([count.wrong / count.mated for count in mated])) if mated else float("nan"),
        impostor_probes=sum(count.impostors for count in counts),
        mated_probes=sum(count.mated for count in counts),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
