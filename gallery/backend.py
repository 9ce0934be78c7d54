"""The seam between a gallery and what keeps it: a store of people and templates, and an index that finds people.

Everything that decides (policy, thresholds, decisions, refusals) is above it and exists once, in
:mod:`facekd.gallery.gallery`; so is the ranking of people by their templates' scores, below. Two back ends implement
both protocols: :mod:`facekd.gallery.store` with :mod:`facekd.gallery.live` in a file of this machine, and
:mod:`facekd.gallery.milvus` on a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from facekd.gallery.decision import Candidate
from facekd.gallery.records import NewTemplate, Person, StoredTemplate, Templates, check_name, spellings

NOBODY = -1
"""In place of a person's number where there are fewer templates than were asked for."""

FIRST_LOOK = 16
"""Templates looked at first; more where they all belong to one person."""

Ranked = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Scores (P, count), falling, and the numbers (P, count) of the people whose templates they are."""


class TemplateStore(Protocol):
    """Keeps people and templates. Ids and people's numbers are positive and never used twice.

    Every method that changes something is called inside :meth:`writing`, after everything that the change depends on
    was read; every one that reads inside :meth:`reading` or :meth:`writing`.
    """

    contract: str
    """Id of the embedder whose templates these are."""

    dimension: int
    """Length of a template."""

    schema: int
    """Version of the form in which it is kept."""

    not_promised: tuple[str, ...]
    """What a file's gallery promises and this one does not, in plain words."""

    @property
    def location(self) -> str:
        """The gallery's file or address."""

    @property
    def encrypted(self) -> bool:
        """Whether templates are sealed at rest."""

    def writing(self) -> AbstractContextManager[None]:
        """One change. A block that ends with an error changes nothing."""

    def reading(self) -> AbstractContextManager[None]:
        """One view of the latest state."""

    def people(self) -> list[Person]:
        """Everybody, by name."""

    def person(self, name: str) -> Person | None:
        """The person of that name."""

    def templates_of(self, number: int) -> list[StoredTemplate]:
        """Every template of one person, oldest first."""

    def readable_templates_of(self, number: int) -> tuple[list[StoredTemplate], list[int]]:
        """A person's templates that open, oldest first, and the ids of those that are damaged."""

    def count_templates(self) -> int:
        """How many templates there are."""

    def count_further_photographs(self) -> int:
        """How many photographs the templates stand for beyond one each (:mod:`facekd.gallery.fusion`)."""

    def add_person(self, name: str, now: str) -> int:
        """Add somebody without templates; returns the person's number."""

    def rename(self, number: int, name: str) -> None:
        """Give a person another name."""

    def remove_person(self, number: int) -> int:
        """Delete a person with every template; returns how many those were."""

    def add_templates(self, number: int, templates: Sequence[NewTemplate], now: str) -> list[int]:
        """Add templates to a person; returns their ids, which rise."""

    def remove_templates(self, ids: Sequence[int]) -> None:
        """Delete templates."""

    def log(self, now: str, action: str, detail: dict[str, object]) -> None:
        """Note in the audit log, where there is one, what this change does."""

    def erase_leftovers(self, *, whole: bool = False) -> bool:
        """Leave no trace of what was removed, ``whole``: however long that takes; False where it is not done yet."""

    def faults(self, audit_head: str | None) -> list[str]:
        """What is wrong with what is kept, in words."""

    def close(self) -> None:
        """Let go of it."""


class PeopleIndex(Protocol):
    """Finds people in the state that the store's current view shows. Called inside a view or a change."""

    def __len__(self) -> int:
        """How many templates can be found, as of the last :meth:`refresh`."""

    def refresh(self) -> None:
        """Come up to date, at the beginning of a view or of a change."""

    def candidates(self, embeddings: Templates, wanted: int = 2) -> list[list[Candidate]]:
        """People by falling score for each probe (P, D): ``wanted`` at least, fewer only where there are fewer."""

    def close(self) -> None:
        """Write what saves time at the next opening."""


def person_named(store: TemplateStore, name: str) -> Person | None:
    """Somebody by name, also one that would not be taken any more but is there. Called inside a view or a change.

    Raises:
        ConfigError: nobody can have that name.
    """
    found = (store.person(spelling) for spelling in spellings(name))
    return next((person for person in found if person is not None), None)


def person_and_name(store: TemplateStore, name: str) -> tuple[Person | None, str]:
    """Somebody by name, and the name under which they are stored, or would be. Called inside a view or a change.

    Raises:
        ConfigError: nobody is enrolled under that name, and nobody can be.
    """
    person = person_named(store, name)
    return person, person.name if person else check_name(name)


def people_by_score(
    search: Callable[[Templates, int], Ranked],
    names: Callable[[Iterable[int]], dict[int, str]],
    embeddings: Templates,
    total: int,
    wanted: int = 2,
) -> list[list[Candidate]]:
    """People by falling score for each probe: looks at more templates until there are enough people.

    Args:
        search: gives the templates nearest to each probe.
        names: gives people's names by number; who has none is left out.
        embeddings: (P, D) float32, unit length.
        total: how many templates there are at most.
        wanted: how many people at least.
    """
    found: list[dict[int, float]] = [{} for _ in embeddings]
    count = min(FIRST_LOOK, total)
    while count:
        scores, numbers = search(embeddings, count)
        found = [_best_by_person(*row) for row in zip(scores, numbers, strict=True)]
        if count >= total or all(len(people) >= wanted for people in found):
            break
        count = min(4 * count, total)
    known = names({number for people in found for number in people})
    return [
        [Candidate(known[number], score) for number, score in people.items() if number in known] for people in found
    ]


def _best_by_person(scores: npt.NDArray[np.float32], numbers: npt.NDArray[np.int64]) -> dict[int, float]:
    """The first, that is the best, score of each person number; scores fall."""
    best: dict[int, float] = {}
    for score, number in zip(scores.tolist(), numbers.tolist(), strict=True):
        if number != NOBODY:
            best.setdefault(number, min(1.0, score))  # float32 sums of equal vectors may pass 1
    return best
