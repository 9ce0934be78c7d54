"""Crops that show a mixture of two people, for a teacher to be asked about: nobody is on them, and they are endless.

Where a student knows its training crops better than others, more crops help more than more steps. A teacher's answer to
a blend is not the mean of its answers to the two crops (for SFace and halves of each, their cosine is 0.58), so it has
to be asked; and then a blend teaches what a further photograph does, how the teacher sees a face. For training only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.recognition.data.light import in_light_of
from facekd.recognition.data.prepare import PrepareSettings, Shards
from facekd.recognition.data.sources import VAL_SHARE, read_training

_SKIN = (slice(25, 100), slice(26, 86))  # of the ArcFace template: hardly any background
_SHARPEST, _SOFTEST = 3.0, 100.0  # pixels over which one face passes into the other


def blend(one: NDArray[np.uint8], other: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Let one aligned crop pass into another along a line near the middle.

    The line's direction is drawn, and how soft it is: from a seam to an even mixture of the whole crop. The other face
    is first brought to the light of the one.

    Args:
        one, other: (112, 112, 3) RGB.
        rng: what is drawn from.

    Returns:
        (112, 112, 3) uint8.
    """
    matched = in_light_of(other, one, _SKIN)
    side = one.shape[0]
    angle, softness = rng.uniform(0.0, 2 * np.pi), np.exp(rng.uniform(np.log(_SHARPEST), np.log(_SOFTEST)))
    x, y = np.meshgrid(*[np.arange(side, dtype=np.float32) - (side - 1) / 2] * 2)
    distance = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(-0.1, 0.1) * side
    share = 1.0 / (1.0 + np.exp(-distance / softness))[..., None]
    return np.rint(np.clip(share * one + (1.0 - share) * matched, 0, 255)).astype(np.uint8)


def prepare_blends(
    folder: Path,
    out: Path,
    count: int,
    *,
    val_share: float = VAL_SHARE,
    seed: int = 0,
    progress: Callable[[Iterable[int]], Iterator[int]] = iter,
) -> None:
    """Write blends of a folder's training crops, as faces of nobody in particular.

    Args:
        folder: of aligned crops, in any layout that training reads; people held out for validation are left out.
        out: a new or empty folder; see ``facekd.recognition.data.prepare``.
        count: how many.
        val_share: share of the people that training never sees, where the folder says nothing of it.
        seed: of what is drawn.
        progress: wraps the numbers of the blends, for a progress bar.

    Raises:
        DataError: ``out`` is not empty, or there are fewer than two crops to train on.
    """
    crops = read_training([folder], val_share=val_share).crops
    if len(crops) < 2:
        raise DataError(f"{folder} has {len(crops)} crop to train on: a blend needs two")
    rng = np.random.default_rng(seed)
    with Shards(out, PrepareSettings().quality) as shards:
        for _ in progress(range(count)):
            one, other = rng.choice(len(crops), 2, replace=False)
            shards.add(blend(crops[one], crops[other], rng), ("", "train", "blend", "", "", "", "", ""))
