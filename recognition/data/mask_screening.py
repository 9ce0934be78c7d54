"""Labels of mask crops looked through by a trained head: a few of a hundred collected labels are wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facekd.recognition.data.mask_shards import MaskSet


def screen_labels(
    masks: MaskSet, probabilities: NDArray[np.floating], relabel_above: float, left_out_below: float
) -> MaskSet:
    """Labels as a trained head sees them, where it is sure.

    Confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068) in its simplest form.

    Args:
        masks: crops and labels.
        probabilities: (N, 3) of the statuses, by a head that did not learn these labels by heart.
        relabel_above: probability from which on another status replaces the label.
        left_out_below: a crop whose own status gets less than this, and no other enough, is left out.
    """
    own = probabilities[np.arange(len(masks)), masks.labels]
    relabelled = probabilities.max(axis=1) >= relabel_above
    labels = np.where(relabelled, probabilities.argmax(axis=1), masks.labels)
    kept = relabelled | (own >= left_out_below)
    return MaskSet(masks.crops[kept], labels[kept])
