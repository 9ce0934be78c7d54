"""Which labels a sure head replaces, and which crops it takes out."""

from __future__ import annotations

import numpy as np

from facekd.recognition.data.mask_screening import screen_labels
from facekd.recognition.data.mask_shards import MaskSet

NONE, MASK, INCORRECT = range(3)


def test_a_sure_head_replaces_labels_and_takes_out_what_it_only_doubts() -> None:
    crops = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 112, 112, 3), np.uint8)
    labels = np.array([MASK, MASK, MASK, NONE, INCORRECT])
    probabilities = np.array(
        [
            [0.05, 0.9, 0.05],  # agrees
            [0.1, 0.3, 0.6],  # sure of another: replaced, at the limit too
            [0.3, 0.2, 0.5],  # doubts it, and is sure of nothing: out
            [0.25, 0.4, 0.35],  # doubts it less: stays
            [0.7, 0.1, 0.2],  # another again
        ]
    )
    screened = screen_labels(MaskSet(crops, labels), probabilities, relabel_above=0.6, left_out_below=0.25)
    assert screened.labels.tolist() == [MASK, INCORRECT, NONE, NONE]
    assert screened.crops[:, 0, 0, 0].tolist() == [0, 1, 3, 4]
    assert labels.tolist() == [MASK, MASK, MASK, NONE, INCORRECT]  # the caller's are left alone
