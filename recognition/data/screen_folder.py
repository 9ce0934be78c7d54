"""Screening a folder of crops of any layout: what is found goes into ``screening.csv``, which training obeys.

The file has a row for each crop: who it was said to be, who it is to be for training, whether it is kept, and why.
Nothing else changes; whoever removes the file trains on everything again. Only crops for training are judged:
validation and test stay what they are, and a crop that copies one of theirs leaves the training.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.errors import ConfigError, DataError
from facekd.recognition.data.screening import Embeddings, group_people, near_duplicates, person_medians, screen_labels
from facekd.whole_files import whole_file

SCREENING = "screening.csv"
COLUMNS = ("crop", "identity", "screened", "kept", "reason", "similarity")
SUSPICIOUS_RATE, GROUP_RATE = 1e-3, 1e-5
SAMPLE = 4000  # labelled crops whose pairs say how alike strangers are
STRANGERS = 10  # pairs above a threshold, at least, for it to mean something


@dataclass(frozen=True, slots=True)
class ScreeningSettings:
    """Cosines of the teacher's embeddings; None: found from how alike the labelled people are to each other.

    Attributes:
        suspicious_below: a crop less alike to its person's median is no longer that person's for training. By default
            the cosine that one in a thousand pairs of strangers exceeds.
        group_above: unlabelled crops more alike are one person. By default that of one in a hundred thousand.
        copy_above: crops more alike are one photograph.
        min_crops: of a person made from unlabelled crops.
    """

    suspicious_below: float | None = None
    group_above: float | None = None
    copy_above: float = 0.97
    min_crops: int = 4


@dataclass(frozen=True, slots=True)
class Screening:
    """What a folder's ``screening.csv`` says of each of its crops.

    Attributes:
        fits: (N,) whether it keeps the name that it had, or had none.
        groups: (N) the further person that an unlabelled crop became, by a name within this folder; empty for others.
        kept: (N,) whether it is trained on at all: another copy of it is where not.
    """

    fits: NDArray[np.bool_]
    groups: tuple[str, ...]
    kept: NDArray[np.bool_]

    def identities(self, before: Sequence[str], own_name: str) -> list[str]:
        """Who each crop is to be for training.

        Args:
            before: (N) who each is said to be.
            own_name: of the folder, to tell its groups from those of others.
        """
        rows = zip(before, self.fits.tolist(), self.groups, strict=True)
        return [f"{own_name}/{group}" if group else name if fits else "" for name, fits, group in rows]


@dataclass(frozen=True, slots=True)
class ScreeningReport:
    """What was found among the training crops.

    Attributes:
        crops: how many were looked at.
        misfits: crops that lost their name.
        copies: crops left out because another is the same photograph.
        grouped: unlabelled crops that got a name.
        new_people: how many people these are.
        suspicious_below, group_above: the thresholds; the second is None where nothing was unlabelled.
    """

    crops: int
    misfits: int
    copies: int
    grouped: int
    new_people: int
    suspicious_below: float
    group_above: float | None


def screen_folder(
    folder: Path,
    identities: Sequence[str],
    training: NDArray[np.bool_],
    embeddings: Embeddings,
    settings: ScreeningSettings | None = None,
) -> ScreeningReport:
    """Judge a folder's crops by a teacher's embeddings and write ``screening.csv``.

    Args:
        folder: receives the file.
        identities: (N) who each crop is said to be; empty where nobody knows.
        training: (N,) which crops are for training.
        embeddings: (N, D) unit length.
        settings: thresholds.

    Raises:
        ConfigError: there are too few labelled people to find a threshold that was not given.
    """
    settings = settings or ScreeningSettings()
    names = sorted({name for name in identities if name})
    number = {name: place for place, name in enumerate(names)}
    labels = np.array([number.get(name, -1) for name in identities], np.int64)
    below = settings.suspicious_below
    if below is None:
        below = strangers_cosine(embeddings, labels, SUSPICIOUS_RATE, "--suspicious-below")
    screening = screen_labels(embeddings, labels, threshold_cosine=below)
    misfits = screening.suspicious & training
    # One wrong name in a hundred makes pairs of strangers who are one person: enough to spoil a rate of one in 100,000.
    settled = np.where(screening.suspicious, -1, labels)
    copies = _copies(embeddings, labels, training, settings.copy_above)
    unlabelled = np.flatnonzero(training & (labels < 0) & ~copies)
    screened = [str(name) for name in np.where(misfits, "", np.array([*identities], dtype=object))]
    above, groups = None, np.full(0, -1, np.int64)
    if len(unlabelled):
        above = settings.group_above
        if above is None:
            above = strangers_cosine(embeddings, settled, GROUP_RATE, "--group-above")
        # Everybody with a name, validation and test too: a person of theirs must not become one of training.
        known = person_medians(embeddings, settled)[1]
        groups = group_people(embeddings[unlabelled], threshold_cosine=above, min_crops=settings.min_crops, known=known)
        for crop, group in zip(unlabelled.tolist(), groups.tolist(), strict=True):
            if group >= 0:
                screened[crop] = f"{folder.resolve().name}/group-{group:05d}"
    _write(folder, identities, screened, misfits, copies, screening.similarity)
    grouped, people = int((groups >= 0).sum()), int(groups.max(initial=-1)) + 1
    return ScreeningReport(
        int(training.sum()), int((misfits & ~copies).sum()), int(copies.sum()), grouped, people, below, above
    )


def strangers_cosine(embeddings: Embeddings, labels: NDArray[np.int64], rate: float, option: str) -> float:
    """The cosine that this share of the pairs of different people's crops exceeds.

    Raises:
        ConfigError: there are too few such pairs; ``option`` is what to give instead.
    """
    known = np.flatnonzero(labels >= 0)
    if len(known) > SAMPLE:
        known = np.random.default_rng(0).choice(known, SAMPLE, replace=False)
    cosines = embeddings[known] @ embeddings[known].T
    strangers = cosines[np.triu(labels[known][:, None] != labels[known][None, :], 1)]
    count = int(rate * len(strangers))
    if count < STRANGERS:
        raise ConfigError(
            f"{len(strangers)} pairs of crops of different people are too few to find the cosine that a share of "
            f"{rate:g} exceeds: give it with {option} COSINE"
        )
    return float(np.partition(strangers, len(strangers) - count)[len(strangers) - count])


def read_screening(folder: Path, identities: Sequence[str]) -> Screening | None:
    """What the screening of a folder found; None where it was not screened.

    Raises:
        DataError: the file is of other crops or other names than the folder has now.
    """
    path = folder / SCREENING
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
        same = [row["identity"] for row in rows] == list(identities)
        fits = np.array([row["identity"] in ("", row["screened"]) for row in rows], np.bool_)
        kept = np.array([row["kept"] == "1" for row in rows], np.bool_)
        groups = tuple("" if row["identity"] else row["screened"].rpartition("/")[2] for row in rows)
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}; remove it, or screen {folder} again") from error
    if not same:
        raise DataError(f"{path} was made when {folder} held other crops or names: remove it, or screen again")
    return Screening(fits, groups, kept)


def _copies(
    embeddings: Embeddings, labels: NDArray[np.int64], training: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """Training crops of which another copy stays: one of validation or test first, then one with a name."""
    order = np.lexsort((labels < 0, training))
    first = near_duplicates(embeddings[order], threshold_cosine=threshold)
    copies = np.zeros(len(labels), np.bool_)
    copies[order] = first != np.arange(len(first))
    return copies & training


def _write(
    folder: Path,
    identities: Sequence[str],
    screened: Sequence[str],
    misfits: NDArray[np.bool_],
    copies: NDArray[np.bool_],
    similarity: NDArray[np.float32],
) -> None:
    with whole_file(folder / SCREENING) as part, part.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        for i, (before, after) in enumerate(zip(identities, screened, strict=True)):
            reason = "copy" if copies[i] else "misfit" if misfits[i] else "grouped" if after != before else ""
            shown = "" if np.isnan(similarity[i]) else f"{similarity[i]:.4f}"
            table.writerow((i, before, after, int(not copies[i]), reason, shown))
