"""Templates of people who do not exist, shaped like those of a real embedder, in any number.

What decides how an index fares is how many dimensions are really in use, and how far apart the templates of one person
lie. Both were measured on the split `val` of the research crops with SFace (128-d, the teacher of our embedders):
eigenvalues of the second moments, mated cosines of mean 0.515 and standard deviation 0.125, non-mated ones of 0.09 and
0.10. A 512-d student uses the same dimensions and some more: 2 % of its energy lies beyond the first 128.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

DIMENSION = 512

_RANKS = (1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
_EIGENVALUES = (0.0464, 0.0394, 0.0310, 0.0186, 0.0108, 0.0073, 0.0060, 0.0050, 0.0043, 0.0036, 0.0031, 0.0022)
_TAIL = 128
"""Dimensions beyond those, falling by a factor of e every 36, as measured on the first 512-d student."""

_MEAN_COSINE = 0.09
"""Cosine of strangers on average: what all faces have in common."""

_TO_OWN_CENTRE, _TO_OWN_CENTRE_SD = 0.68, 0.115
"""How much of a template is the person's own, and how much that differs between photographs."""


def spectrum() -> NDArray[np.float64]:
    """Share of each used dimension in the whole, falling; sums to 1."""
    body = np.exp(np.interp(np.arange(1, 129), _RANKS, np.log(_EIGENVALUES)))
    tail = 0.00058 * np.exp(-np.arange(1, _TAIL + 1) / 36)
    values = np.concatenate([body, tail])
    return np.asarray(values / values.sum())


@cache
def _axes(count: int) -> NDArray[np.float32]:
    """Orthonormal directions (512, count) in which the used dimensions lie."""
    return np.linalg.qr(np.random.default_rng(0).standard_normal((DIMENSION, count)))[0].astype(np.float32)


def synthetic_people(people: int, each: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Templates (people, each, 512) of unit length, see the module's text; the same axes whatever the generator."""
    scale = np.sqrt((1 - _MEAN_COSINE) * spectrum()).astype(np.float32)
    centres = rng.standard_normal((people, 1, len(scale)), np.float32)
    others = rng.standard_normal((people, each, len(scale)), np.float32)
    own = np.clip(rng.normal(_TO_OWN_CENTRE, _TO_OWN_CENTRE_SD, (people, each, 1)), 0.2, 0.98).astype(np.float32)
    used = own * centres + np.sqrt(1 - own**2) * others
    axes = _axes(len(scale) + 1)
    flat = (used * scale).reshape(people * each, len(scale))  # one product: a product a person is ten times slower
    whole = flat @ axes[:, 1:].T + np.float32(np.sqrt(_MEAN_COSINE)) * axes[:, 0]
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    return whole.reshape(people, each, DIMENSION)
