"""One template of several photographs: the mean of their embeddings, weighted by quality.

A mean is nearer to the person than any one photograph, so more of the person's other photographs are recognised; but
being a mean of unequal parts it is short, and made unit length again it is nearer to strangers, too. Measured on `val`
with two embedders, a template of n photographs answers to strangers about as often as the n photographs one by one
would, so it counts as n in FPIR / N.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from facekd.errors import ConfigError
from facekd.gallery.records import NewTemplate, StoredTemplate, Templates

Fusion = Literal["none", "beside", "instead"]
FUSIONS: tuple[Fusion, ...] = ("none", "beside", "instead")

LEAST_WEIGHT = 0.05
"""Of a photograph whose quality is worse or zero; one of unknown quality weighs 1."""

SAME = 0.9999
"""Two fusions this alike are of the same photographs."""

UNLIKE_COSINE = 0.15
"""A photograph less alike than this to the mean of the others stays out: it may show somebody else. Fixed, so that a
fused template can always be told from its photographs."""

AnyTemplate = TypeVar("AnyTemplate", NewTemplate, StoredTemplate, NewTemplate | StoredTemplate)


def fused_embedding(templates: Sequence[NewTemplate | StoredTemplate]) -> Templates:
    """The quality-weighted mean of unit embeddings, made unit length again: (D,)."""
    weights = [_weight(template) for template in templates]
    mean = np.average(np.stack([template.embedding for template in templates]), axis=0, weights=weights)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


def fuse(templates: Sequence[NewTemplate | StoredTemplate]) -> NewTemplate:
    """One template of two photographs or more; without a crop."""
    weights = np.array([_weight(template) for template in templates])
    quality = float(np.average(weights, weights=weights)) if any(t.quality is not None for t in templates) else None
    return NewTemplate(fused_embedding(templates), quality, templates[0].mask, photographs=len(templates))


def planned(
    own: Sequence[StoredTemplate], new: Sequence[NewTemplate], fusion: Fusion
) -> tuple[list[int], list[NewTemplate]]:
    """What one enrolment stores, and which of the person's templates it takes the place of.

    Args:
        own: what the person has.
        new: the photographs of this enrolment.
        fusion: ``none``; ``instead``: the photographs of one enrolment become one template; ``beside``: all are kept,
            and one template of all the person's photographs with them.

    Returns:
        Ids to remove, and templates to add. Masked photographs are never fused.
    """
    if fusion == "none":
        return [], list(new)
    if fusion == "instead":
        parts = _fusible(new)
        if len(parts) < 2:
            return [], list(new)
        chosen = {id(part) for part in parts}
        return [], [fuse(parts), *(template for template in new if id(template) not in chosen)]
    replaced = [template.id for template in own if parts_of(template, own)]
    everything: list[NewTemplate | StoredTemplate] = [*own, *new]
    whole = _fusible(everything)
    return replaced, [*new, *([fuse(whole)] if len(whole) > 1 else [])]


def without(own: Sequence[StoredTemplate], removed: set[int]) -> tuple[list[int], list[NewTemplate]]:
    """What follows from removing some templates: what was fused of them must not outlive them.

    Returns:
        Further ids to remove, and templates to add in their place.
    """
    stale = [
        template.id
        for template in own
        if template.id not in removed and any(part.id in removed for part in parts_of(template, own))
    ]
    parts = _fusible([template for template in own if template.id not in removed])
    return stale, [fuse(parts)] if stale and len(parts) > 1 else []


def parts_of(template: StoredTemplate, own: Sequence[StoredTemplate]) -> list[StoredTemplate]:
    """The photographs that a template is the fusion of, where they lie beside it; else none."""
    if template.photographs < 2:
        return []
    parts = _fusible(own)
    alike = len(parts) == template.photographs and float(fused_embedding(parts) @ template.embedding) >= SAME
    return parts if alike else []


def parse_fusion(text: str) -> Fusion:
    """What ``--fuse`` says.

    Raises:
        ConfigError: it is none of :data:`FUSIONS`.
    """
    for fusion in FUSIONS:
        if text == fusion:
            return fusion
    raise ConfigError(f"--fuse takes {', '.join(FUSIONS)}, got {text!r}")


def _fusible(templates: Sequence[AnyTemplate]) -> list[AnyTemplate]:
    plain = [template for template in templates if template.mask in (None, "none") and template.photographs == 1]
    if len(plain) < 3:
        return plain
    embeddings = np.stack([template.embedding for template in plain])
    others = embeddings.sum(axis=0) - embeddings
    cosines = (embeddings * others).sum(axis=1) / np.maximum(np.linalg.norm(others, axis=1), 1e-9)
    return [template for template, cosine in zip(plain, cosines, strict=True) if cosine >= UNLIKE_COSINE]


def _weight(template: NewTemplate | StoredTemplate) -> float:
    return 1.0 if template.quality is None else max(template.quality, LEAST_WEIGHT)
