"""Templates that should not be there: unlike their owner's others, or like somebody else's.

A wrong photograph in a person's folder, a face enrolled under two names, or a template placed there on purpose (a
"wolf" that resembles many) lets the wrong people in for years, and no single enrolment shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from facekd.gallery.gallery import Gallery

OWN_FMR = 1e-2
"""A template whose typical cosine to its owner's others is reached by one stranger in a hundred is out of place."""

MANY = 3
"""A template that resembles this many other people is a danger, not a coincidence."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A template to look at.

    Attributes:
        kind: ``unlike-own`` (median cosine to the owner's others is low), ``like-other`` (resembles another person
            as only that person's own photographs do) or ``like-many`` (resembles several).
        person: the owner.
        template: its id, as ``facekd people remove --template`` takes it.
        score: the cosine that gave rise to it.
        others: the other people, best first.
    """

    kind: str
    person: str
    template: int
    score: float
    others: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form of ``facekd gallery audit-templates``."""
        return {name: getattr(self, name) for name in self.__slots__}


def audit_templates(
    gallery: Gallery, *, own_cosine: float | None = None, other_cosine: float | None = None
) -> list[Finding]:
    """Look at every template beside its owner's others and beside everybody else's.

    Args:
        gallery: compares each template with each: a minute for ten thousand, hours for a million.
        own_cosine: below it a template is unlike its owner's others; by default the threshold at an FMR of 1 %.
        other_cosine: from it on a template is like somebody else's; by default that of the enrolment policy.
    """
    calibration = gallery.calibration
    if own_cosine is None:
        own_cosine = calibration.threshold(OWN_FMR) if calibration else gallery.policy.unlike_cosine
    if other_cosine is None:
        other_cosine = gallery.same_person_cosine()
    findings: list[Finding] = []
    for person in gallery.people():
        templates = gallery.templates(person.name)
        if not templates:
            continue
        embeddings = np.stack([template.embedding for template in templates])
        # A fused template is a mean of the others: it would vouch for a wrong one that is part of it.
        single = [template for template in templates if template.photographs == 1]
        if len(single) > 2:  # of two, nobody can say which one is wrong
            own = np.stack([template.embedding for template in single])
            likeness = own @ own.T
            np.fill_diagonal(likeness, np.nan)
            for template, median in zip(single, np.nanmedian(likeness, axis=1).tolist(), strict=True):
                if median < own_cosine:
                    findings.append(Finding("unlike-own", person.name, template.id, median))
        for template, people in zip(templates, gallery.nearest_people(embeddings, MANY + 1), strict=True):
            others = [found for found in people if found.person != person.name and found.score >= other_cosine]
            if others:
                kind = "like-many" if len(others) >= MANY else "like-other"
                names = tuple(found.person for found in others)
                findings.append(Finding(kind, person.name, template.id, others[0].score, names))
    return findings
