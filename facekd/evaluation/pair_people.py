"""Who is in a photograph, by its name: lists of pairs seldom say it, and intervals over people need it.

A form of names is believed only if the whole list agrees with it: mated pairs bear one person's name, others two.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from facekd.evaluation.pairs import PairList

_NUMBERED = re.compile(r"(.+)_\d+\.\w+")
_AGEDB = re.compile(r"\d+_(.+)_\d+_[mfMF]\.\w+")


def numbered(name: str) -> str:
    """The person of ``Ada_Lovelace_0001.jpg`` (LFW, CALFW, CPLFW); empty where the name has another form."""
    found = _NUMBERED.fullmatch(PurePosixPath(name).name)
    return found[1] if found else ""


def with_age(name: str) -> str:
    """The person of ``0_MariaCallas_35_f.jpg`` (AgeDB's photographs); empty where the name has another form."""
    found = _AGEDB.fullmatch(PurePosixPath(name).name)
    return found[1] if found else ""


def folder(name: str) -> str:
    """The person of ``Ada/anything.jpg``: the folder; empty where there is none."""
    return PurePosixPath(name).parent.name


def first_word(name: str) -> str:
    """The person of ``12_…``: what stands before the first underscore (AgeDB's protocols); empty without one."""
    word, found, _ = PurePosixPath(name).name.partition("_")
    return word if found else ""


FORMS = (numbered, with_age, folder, first_word)


def person_of(pairs: PairList) -> Callable[[str], str] | None:
    """The first form of names that every pair of the list agrees with; None where there is none."""
    same = pairs.same.tolist()
    for form in FORMS:
        people = {name: form(name) for name in pairs.photographs()}
        if all(people.values()) and all(
            (people[one] == people[other]) == mated
            for one, other, mated in zip(pairs.first, pairs.second, same, strict=True)
        ):
            return form
    return None
