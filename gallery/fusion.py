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
import numpy.typing as npt

from facekd.errors import ConfigError
from facekd.gallery.records import NewTemplate, StoredTemplate, Templates

Fusion = Literal["none", "beside", "instead"]
FUSIONS: tuple[Fusion, ...] = ("none", "beside", "instead")

LEAST_WEIGHT = 0.05
"""Of a photograph whose quality is worse or zero; one of unknown quality weighs 1."""

SAME = 1 - 1e-6
"""Two fusions this alike are of the same photographs; a fusion computed again differs by float32 rounding alone."""

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
        Ids to remove, and templates to add. Masked photographs are never fused. Whatever the policy, a template
        ``beside`` its photographs is made anew with them: a stale one could not be told from its photographs later.
    """
    stored = list(new)
    parts = _fusible(stored) if fusion == "instead" else []
    if len(parts) > 1:
        chosen = {id(part) for part in parts}
        stored = [fuse(parts), *(template for template in stored if id(template) not in chosen)]
    everything: list[NewTemplate | StoredTemplate] = [*own, *stored]
    beside = [template for template in everything if _is_beside(template, everything)]
    if fusion != "beside" and not beside:
        return [], stored
    stale, fresh = _renewal(beside, everything, _fusible(everything))
    outdated = {id(template) for template in stale}
    return _ids(stale), [*(template for template in stored if id(template) not in outdated), *fresh]


def without(own: Sequence[StoredTemplate], removed: set[int]) -> tuple[list[int], list[int], list[NewTemplate]]:
    """What follows from removing some templates: what was fused of them must not outlive them.

    A fusion that cannot be taken apart is kept only if every removed photograph was stored after it. Earlier versions
    left fusions behind that hold photographs removed since, and nothing tells them from others.

    Returns:
        Further ids to remove: those made anew, and those that may hold what was removed; and templates to add.
    """
    left = [template for template in own if template.id not in removed]
    gone = [template for template in own if template.id in removed and _is_plain(template)]
    if not gone:
        return [], [], []
    beside = [template for template in left if _is_beside(template, own)]
    known = {id(template) for template in beside}
    doubtful = [
        template.id
        for template in left
        if template.photographs > 1
        and id(template) not in known
        and not all(photo.id > template.id and photo.created >= template.created for photo in gone)
    ]
    if not beside:
        return [], doubtful, []
    stale, fresh = _renewal(beside, own, _fusible(left))
    return _ids(stale), doubtful, fresh


def parts_of(template: NewTemplate | StoredTemplate, own: Sequence[AnyTemplate]) -> list[AnyTemplate]:
    """The photographs that a template is the fusion of, where all of them lie beside it; else none.

    Also where others came after it: a person's embeddings are far fewer than their dimensions, so there is one way to
    write the fusion as a sum of them, and the photographs that it was not made of have no part in that sum.
    """
    count = template.photographs
    plain = [one for one in own if _is_plain(one)]
    if count < 2 or len(plain) < count:
        return []
    whole = _fusible(plain)
    if len(whole) == count and _is_fusion_of(template, whole):
        return whole
    rows = np.stack([one.embedding for one in plain]).astype(np.float64)
    shares = np.linalg.lstsq(rows.T, template.embedding.astype(np.float64), rcond=None)[0]
    parts = [plain[place] for place in sorted(np.argsort(shares)[-count:])]
    return parts if _is_fusion_of(template, parts) else []


def fusible(embeddings: Templates) -> npt.NDArray[np.bool_]:
    """Which of one person's unmasked photographs (N, D) are fused: (N,); of fewer than three nobody can say."""
    if len(embeddings) < 3:
        return np.ones(len(embeddings), np.bool_)
    others = embeddings.sum(axis=0) - embeddings
    cosines = (embeddings * others).sum(axis=1) / np.maximum(np.linalg.norm(others, axis=1), 1e-9)
    return np.asarray(cosines >= UNLIKE_COSINE)


def parse_fusion(text: str) -> Fusion:
    """What ``--fuse`` says.

    Raises:
        ConfigError: it is none of :data:`FUSIONS`.
    """
    for fusion in FUSIONS:
        if text == fusion:
            return fusion
    raise ConfigError(f"--fuse takes {', '.join(FUSIONS)}, got {text!r}")


def _is_beside(template: NewTemplate | StoredTemplate, own: Sequence[NewTemplate | StoredTemplate]) -> bool:
    """Whether a fused template belongs beside the person's photographs, also where some of them are gone."""
    if template.photographs < 2:
        return False
    if parts_of(template, own):
        return True
    # ``beside`` stores a fusion last, behind the photographs that it came with; ``instead`` stores it first.
    return isinstance(template, StoredTemplate) and any(
        isinstance(one, StoredTemplate)
        and _is_plain(one)
        and one.id == template.id - 1
        and one.created == template.created
        for one in own
    )


def _renewal(
    beside: Sequence[AnyTemplate], own: Sequence[AnyTemplate], whole: Sequence[AnyTemplate]
) -> tuple[list[AnyTemplate], list[NewTemplate]]:
    """Which fusions are not of the whole, once, and what takes their place."""
    wanted = {id(template) for template in whole}
    current = [template for template in beside if {id(part) for part in parts_of(template, own)} == wanted][:1]
    stale = [template for template in beside if not any(template is one for one in current)]
    return stale, [fuse(whole)] if not current and len(whole) > 1 else []


def _ids(templates: Sequence[NewTemplate | StoredTemplate]) -> list[int]:
    return [template.id for template in templates if isinstance(template, StoredTemplate)]


def _is_plain(template: NewTemplate | StoredTemplate) -> bool:
    return template.mask in (None, "none") and template.photographs == 1


def _is_fusion_of(template: NewTemplate | StoredTemplate, parts: Sequence[NewTemplate | StoredTemplate]) -> bool:
    return float(fused_embedding(parts).astype(np.float64) @ template.embedding.astype(np.float64)) >= SAME


def _fusible(templates: Sequence[AnyTemplate]) -> list[AnyTemplate]:
    plain = [template for template in templates if _is_plain(template)]
    if not plain:
        return []
    alike = fusible(np.stack([template.embedding for template in plain]))
    return [template for template, chosen in zip(plain, alike, strict=True) if chosen]


def _weight(template: NewTemplate | StoredTemplate) -> float:
    return 1.0 if template.quality is None else max(template.quality, LEAST_WEIGHT)
