"""Ways to search a large gallery, side by side on the same templates: how often each finds the best one, and how fast.

All of them are FAISS's, on one thread, and all hand a shortlist to be compared in full afterwards; "found" says that
the template which is really nearest is in it. This is where the choice in :mod:`facekd.gallery.quantised` comes from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from facekd.bench.synthetic_people import DIMENSION, synthetic_people
from facekd.evaluation.progress import Progress, silently
from facekd.gallery.quantised import Coding

TEMPLATES_PER_PERSON = 2
BLOCK = 10_000
SAMPLE = 16_384
LISTS = 256
LISTS_LOOKED_INTO = (16, 64, 128, 192)

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One way to search.

    Attributes:
        name: what it looks at.
        bytes_each: memory a template.
        ms: processor time a probe.
        found_mated, found_strangers: share of probes whose nearest template is in the shortlist; probes of people who
            are enrolled, and of people who are not.
    """

    name: str
    bytes_each: float
    ms: float
    found_mated: float
    found_strangers: float


def compare_indexes(
    size: int, probes: int = 500, shortlist: int = 64, progress: Progress = silently
) -> tuple[list[IndexRow], int]:
    """Measure every way on one set of synthetic templates; returns rows, and how many axes the chosen coding has.

    Args:
        size: number of templates, at least 20,000.
        probes: of enrolled people, and as many of strangers.
        shortlist: how many templates each way may name.
        progress: shows how far it is.

    Raises:
        ValueError: too few templates to make lists of.
    """
    if size < 20_000:
        raise ValueError(f"size is {size}; below 20000 templates exact search is fast enough")
    rng = np.random.default_rng(size)
    first = synthetic_people(probes, TEMPLATES_PER_PERSON + 1, rng)
    blocks = [first[:, :-1].reshape(-1, DIMENSION)]
    while sum(map(len, blocks)) < size:
        blocks.append(synthetic_people(BLOCK, TEMPLATES_PER_PERSON, rng).reshape(-1, DIMENSION))
    templates = np.concatenate(blocks)[:size]
    asked = np.concatenate([first[:, -1], synthetic_people(probes, 1, rng)[:, 0]])
    sample = rng.choice(size, min(size, SAMPLE), replace=False)
    coding = Coding.of(templates[sample])
    forms = {False: (templates, asked), True: (coding.coordinates(templates), coding.coordinates(asked))}

    rows: list[IndexRow] = []
    right: NDArray[np.int64] = np.empty(0, np.int64)
    for name, coded, make in progress(_ways(len(coding.axes)), "indexes"):
        held, questions = forms[coded]
        index = make()
        index.train(held[sample])
        index.add(held)
        bytes_each = faiss.serialize_index(index).nbytes / size
        for looked_into in LISTS_LOOKED_INTO if hasattr(index, "nprobe") else (None,):
            if looked_into is not None:
                index.nprobe = looked_into
            found, ms = _search(index, questions, shortlist)
            right = right if len(right) else found[:, 0]  # the first way is exact
            hits = (found == right[:, None]).any(axis=1)
            row_name = name if looked_into is None else f"{looked_into} of {LISTS} lists, {name}"
            rows.append(IndexRow(row_name, bytes_each, ms, float(hits[:probes].mean()), float(hits[probes:].mean())))
    return rows, len(coding.axes)


def _ways(axes: int) -> list[tuple[str, bool, Callable[[], Any]]]:
    """Name, whether it holds coded coordinates instead of templates, and how it is made; exact search comes first."""
    product, quantiser = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer

    def lists() -> Any:
        centres: Any = faiss.IndexFlatIP(axes)
        index = faiss.IndexIVFScalarQuantizer(centres, axes, LISTS, quantiser.QT_8bit, product, False)
        index.own_fields = True
        centres.this.disown()
        return index

    ways: list[tuple[str, bool, Callable[[], Any]]] = [
        ("all, float32", False, lambda: faiss.IndexFlatIP(DIMENSION)),
        ("all, 8 bits", False, lambda: faiss.IndexScalarQuantizer(DIMENSION, quantiser.QT_8bit, product)),
        (
            f"all, 8 bits on {axes} axes (used)",
            True,
            lambda: faiss.IndexScalarQuantizer(axes, quantiser.QT_8bit_direct_signed, product),
        ),
        (f"all, 4 bits for 2 of {axes} axes", True, lambda: faiss.IndexPQFastScan(axes, axes // 2, 4, product)),
        (f"8 bits on {axes} axes", True, lists),
    ]
    if hasattr(faiss, "IndexRaBitQFastScan"):  # FAISS 1.13
        ways.insert(4, ("all, 1 bit (RaBitQ)", False, lambda: faiss.IndexRaBitQFastScan(DIMENSION, product)))
    return ways


def _search(index: Any, questions: Matrix, shortlist: int) -> tuple[NDArray[np.int64], float]:
    """The shortlists (P, S), and milliseconds of processor time a probe, one probe at a time."""
    start = time.process_time()
    found = [index.search(questions[k : k + 1], shortlist)[1] for k in range(len(questions))]
    return np.concatenate(found), 1000 * (time.process_time() - start) / len(questions)
