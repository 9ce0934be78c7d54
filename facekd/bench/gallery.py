"""How a gallery behaves as it grows: opening, searching, enrolling, removing, memory and size on disk.

Every size is measured twice: with exact search over all templates, and with the index that facekd chooses for so many.
Exact search cannot be faster than reading all templates once from memory, so that limit stands beside it. Templates are
those of :mod:`facekd.bench.synthetic_people`. Times are processor time, so that a busy machine does not show in them;
what the disk takes to confirm a change comes on top.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.bench.synthetic_people import DIMENSION, synthetic_people
from facekd.evaluation.progress import Progress, silently
from facekd.gallery.gallery import Gallery
from facekd.gallery.index import Ids
from facekd.gallery.live import LiveIndex
from facekd.gallery.policy import EnrolmentPolicy
from facekd.gallery.records import NewTemplate
from facekd.gallery.store import Store

TEMPLATES_PER_PERSON = 2
CONTRACT = "synthetic-bench"
THRESHOLD = 0.5
FILL_BATCH = 1000
PROBE_BATCH = 100


@dataclass(frozen=True, slots=True)
class IndexTimes:
    """What was measured with one index.

    Attributes:
        memory_mb: how much more memory the process holds once the gallery has answered; None where that is not told.
        open_ms: opening until the first answer, reading every template from the file (which the system has in memory).
        reopen_ms: the same from the index on disk; None where none is kept.
        search_ms: median of one identification.
        batch_search_ms: the same, a probe, when 64 come together.
        enrol_ms, remove_ms: median of adding and removing one person, with the next identification.
    """

    memory_mb: float | None
    open_ms: float
    reopen_ms: float | None
    search_ms: float
    batch_search_ms: float
    enrol_ms: float
    remove_ms: float


@dataclass(frozen=True, slots=True)
class GalleryTimes:
    """What was measured at one size.

    Attributes:
        templates: how many templates the gallery holds.
        fill_per_second: templates written a second, all in one transaction.
        megabytes: size of the file.
        memory_limit_ms: reading all templates once from memory.
        exact, chosen: with exact search, and with the index of facekd's choice.
        recall_mated, recall_strangers: share of probes for which both find the same template first; probes of people
            who are enrolled, and of people who are not.
        probes: how many there were of each.
        own_first: share of the mated probes whose own person comes first in exact search. What is missing lies in the
            templates, not in the index: the more people, the more often somebody is more alike.
    """

    templates: int
    fill_per_second: float
    megabytes: float
    memory_limit_ms: float
    exact: IndexTimes
    chosen: IndexTimes
    recall_mated: float
    recall_strangers: float
    probes: int
    own_first: float


def memory_bandwidth(megabytes: int = 256) -> float:
    """Bytes a second that this thread reads from memory: the best of three passes."""
    block = np.ones(megabytes << 18, np.float32)
    return block.nbytes / min(_seconds(lambda: block.sum()) for _ in range(3))


def bench_gallery(
    sizes: Sequence[int],
    folder: Path | None = None,
    rounds: int = 15,
    probes: int = 1000,
    progress: Progress = silently,
) -> list[GalleryTimes]:
    """Measure galleries of several sizes, one after another in a temporary folder.

    Args:
        sizes: numbers of templates, each at least 200.
        folder: where the galleries are made; None takes the system's folder for temporary files.
        rounds: medians are over so many.
        probes: of enrolled people, and as many of strangers, for which both indexes are compared.
        progress: shows how far it is.

    Raises:
        ValueError: a size is too small.
    """
    if min(sizes, default=0) < 200:
        raise ValueError(f"sizes are {list(sizes)}; a gallery of fewer than 200 templates shows nothing")
    bandwidth = memory_bandwidth()
    return [_measure(size, folder, rounds, probes, bandwidth) for size in progress(sizes, "galleries")]


def _measure(size: int, folder: Path | None, rounds: int, probes: int, bandwidth: float) -> GalleryTimes:
    rng = np.random.default_rng(size)
    people = size // TEMPLATES_PER_PERSON
    # One template more of the first people: the mated probes, who are not enrolled.
    first = synthetic_people(min(people, probes), TEMPLATES_PER_PERSON + 1, rng)
    strangers = synthetic_people(len(first), 1, rng)[:, 0]
    asked = np.concatenate([first[:, -1], strangers])
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "gallery.db"
        with Gallery.open(path, contract=CONTRACT) as gallery:
            fill_s = _seconds(lambda: _fill(gallery, first[:, :-1], people, rng))
        megabytes = path.stat().st_size / 1e6
        exact, right = _measure_index(path, 2 * size, asked, rounds)
        chosen, found = _measure_index(path, None, asked, rounds)
    same = right == found
    return GalleryTimes(
        templates=people * TEMPLATES_PER_PERSON,
        fill_per_second=people * TEMPLATES_PER_PERSON / fill_s,
        megabytes=megabytes,
        memory_limit_ms=1000 * people * TEMPLATES_PER_PERSON * DIMENSION * 4 / bandwidth,
        exact=exact,
        chosen=chosen,
        recall_mated=float(same[: len(first)].mean()),
        recall_strangers=float(same[len(first) :].mean()),
        probes=len(first),
        own_first=float(np.mean((right[: len(first)] - 1) // TEMPLATES_PER_PERSON == np.arange(len(first)))),
    )


def _measure_index(
    path: Path, flat_up_to: int | None, asked: NDArray[np.float32], rounds: int
) -> tuple[IndexTimes, Ids]:
    """Times with one index, and the id of the template that it finds first for each probe."""
    before = resident_bytes()
    start = time.process_time()
    with _Opened(path, flat_up_to) as (gallery, index):
        gallery.identify(asked[0], threshold=THRESHOLD)
        open_s = time.process_time() - start
        after = resident_bytes()
        search_s = _median(lambda k: gallery.identify(asked[k % len(asked)], threshold=THRESHOLD), rounds)
        batch = list(asked[:64])
        batch_s = _median(lambda _: gallery.identify_many(batch, threshold=THRESHOLD), max(rounds // 5, 1))
        with gallery.store.reading():
            found = [index.nearest(asked[k : k + PROBE_BATCH], 1)[1][:, 0] for k in range(0, len(asked), PROBE_BATCH)]
        new = synthetic_people(rounds, 1, np.random.default_rng(7))
        probe = asked[0]
        enrol_s = _median(lambda k: _enrol(gallery, f"new {k}", new[k], probe), rounds)
        remove_s = _median(lambda k: _remove(gallery, f"new {k}", probe), rounds)
    reopen_s = None
    if path.with_name(path.name + ".index").exists():
        start = time.process_time()
        with _Opened(path, flat_up_to) as (gallery, _):
            gallery.identify(asked[0], threshold=THRESHOLD)
            reopen_s = time.process_time() - start
    times = IndexTimes(
        memory_mb=None if before is None or after is None else (after - before) / 1e6,
        open_ms=1000 * open_s,
        reopen_ms=None if reopen_s is None else 1000 * reopen_s,
        search_ms=1000 * search_s,
        batch_search_ms=1000 * batch_s / len(batch),
        enrol_ms=1000 * enrol_s,
        remove_ms=1000 * remove_s,
    )
    return times, np.concatenate(found)


class _Opened:
    """A gallery in a file with an index that changes from exact to coded at a size of the caller's."""

    def __init__(self, path: Path, flat_up_to: int | None) -> None:
        store = Store.open(path, contract=CONTRACT, dimension=DIMENSION, create=False, key=None, timeout_s=10.0)
        self._index = LiveIndex(store, flat_up_to=flat_up_to)
        self._gallery = Gallery(store, self._index, None, EnrolmentPolicy(), lambda: datetime.now(UTC))

    def __enter__(self) -> tuple[Gallery, LiveIndex]:
        return self._gallery, self._index

    def __exit__(self, *_: object) -> None:
        self._gallery.close()


def _fill(gallery: Gallery, first: NDArray[np.float32], people: int, rng: np.random.Generator) -> None:
    """Write everybody in one transaction, past the policy: a million enrolments one by one would take hours."""
    with gallery.store.writing():
        now = gallery.now()
        for start in range(0, people, FILL_BATCH):
            block = synthetic_people(min(FILL_BATCH, people - start), TEMPLATES_PER_PERSON, rng)
            known = first[start : start + FILL_BATCH]
            block[: len(known)] = known
            for k, templates in enumerate(block):
                number = gallery.store.add_person(f"person {start + k:07d}", now)
                gallery.store.add_templates(number, [NewTemplate(row) for row in templates], now)


def _enrol(gallery: Gallery, person: str, templates: NDArray[np.float32], probe: NDArray[np.float32]) -> None:
    gallery.enrol(person, list(templates))
    gallery.identify(probe, threshold=THRESHOLD)


def _remove(gallery: Gallery, person: str, probe: NDArray[np.float32]) -> None:
    gallery.remove(person)
    gallery.identify(probe, threshold=THRESHOLD)


def resident_bytes() -> int | None:
    """Memory that this process holds at present, where the system tells (Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _median(work: Callable[[int], object], rounds: int) -> float:
    return float(np.median([_seconds(lambda k=k: work(k)) for k in range(rounds)]))  # type: ignore[misc]
