"""Run by test_gallery_processes.py, not collected: search, fork, and search again.

A child that hangs is ended by its alarm: what it printed until then tells how far it came.
"""

from __future__ import annotations

import os
import signal
import sys

import numpy as np

from facekd.gallery.index import FlatIndex, use_threads
from facekd.gallery.quantised import Coding, QuantisedIndex

SECONDS = 30
"""Until a child counts as hanging."""


def main() -> int:
    """Print the name of each index as it answers, in this process and in a forked one; returns the child's status."""
    use_threads(2)  # on a machine of one processor, too
    vectors = np.random.default_rng(0).standard_normal((400, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.arange(1, len(vectors) + 1)
    kept = dict(zip(ids.tolist(), vectors, strict=True))
    flat = FlatIndex(64)
    quantised = QuantisedIndex(Coding.of(vectors), lambda wanted: {number: kept[number] for number in wanted})

    def search() -> None:
        for name, index in (("flat", flat), ("quantised", quantised)):
            for count in (1, len(vectors)):  # FAISS has a way of its own for many probes
                assert np.array_equal(index.search(vectors[:count], 1)[1][:, 0], ids[:count])
            print(name, flush=True)

    for index in (flat, quantised):
        index.add(ids, vectors)
    search()
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        search()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
