"""How a gallery behaves as it grows: opening, searching, enrolling, removing, size on disk.

Templates are synthetic but shaped like real ones: those of one person have a cosine near 0.65, those of different
people scatter by 0.13 around 0 (as a network's 512 numbers do that use about 60 dimensions). Searching all of them
exactly cannot be faster than reading them once from memory, so that limit stands beside every time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.evaluation.progress import Progress, silently
from facekd.gallery.gallery import Gallery
from facekd.gallery.records import NewTemplate

DIMENSION = 512
USED_DIMENSIONS = 60
MATED_COSINE = 0.65
TEMPLATES_PER_PERSON = 2
CONTRACT = "synthetic-bench"
THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class GalleryTimes:
    """What was measured at one size.

    Attributes:
        templates: how many templates the gallery holds.
        fill_per_second: templates written a second, all in one transaction.
        megabytes: size of the file.
        open_ms: opening until the first answer.
        search_ms: median of one identification.
        batch_search_ms: the same, a probe, when 64 come together.
        memory_limit_ms: reading all templates once from memory.
        enrol_ms, remove_ms: median of adding and removing one person, search included.
        found: share of mated probes whose own person came first.
    """

    templates: int
    fill_per_second: float
    megabytes: float
    open_ms: float
    search_ms: float
    batch_search_ms: float
    memory_limit_ms: float
    enrol_ms: float
    remove_ms: float
    found: float


def synthetic_people(people: int, each: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Templates (people, each, 512) of unit length, see the module's text."""
    centres = rng.standard_normal((people, 1, USED_DIMENSIONS), np.float32)
    # Two of one person share the centre: cosine = 1 / (1 + noise²).
    noise = np.sqrt(1 / MATED_COSINE - 1)
    used = centres + noise * rng.standard_normal((people, each, USED_DIMENSIONS), np.float32)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((DIMENSION, USED_DIMENSIONS)))[0].astype(np.float32)
    whole = used @ basis.T
    return np.asarray(whole / np.linalg.norm(whole, axis=2, keepdims=True), np.float32)


def memory_bandwidth(megabytes: int = 256) -> float:
    """Bytes a second that this thread reads from memory: the best of three passes."""
    block = np.ones(megabytes << 18, np.float32)
    return block.nbytes / min(_seconds(lambda: block.sum()) for _ in range(3))


def bench_gallery(
    sizes: Sequence[int], folder: Path | None = None, rounds: int = 15, progress: Progress = silently
) -> list[GalleryTimes]:
    """Measure galleries of several sizes, one after another in a temporary folder.

    Args:
        sizes: numbers of templates, each at least 200.
        folder: where the galleries are made; None takes the system's folder for temporary files.
        rounds: medians are over so many.
        progress: shows how far it is.

    Raises:
        ValueError: a size is too small.
    """
    if min(sizes, default=0) < 200:
        raise ValueError(f"sizes are {list(sizes)}; a gallery of fewer than 200 templates shows nothing")
    bandwidth = memory_bandwidth()
    return [_measure(size, folder, rounds, bandwidth) for size in progress(sizes, "galleries")]


def _measure(size: int, folder: Path | None, rounds: int, bandwidth: float) -> GalleryTimes:
    rng = np.random.default_rng(size)
    people = size // TEMPLATES_PER_PERSON
    probed = min(people, 64)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "gallery.db"
        with Gallery.open(path, contract=CONTRACT) as gallery:
            # One template more of the first people: the probes, who are not enrolled.
            first = synthetic_people(probed, TEMPLATES_PER_PERSON + 1, rng)
            probes = list(first[:, -1])
            fill_s = _seconds(lambda: _fill(gallery, first[:, :-1], people, rng))
        megabytes = sum(file.stat().st_size for file in Path(name).iterdir()) / 1e6
        start = time.perf_counter()
        with Gallery.open(path, contract=CONTRACT) as gallery:
            gallery.identify(probes[0], threshold=THRESHOLD)
            open_s = time.perf_counter() - start
            search_s = _median(lambda k: gallery.identify(probes[k % probed], threshold=THRESHOLD), rounds)
            batch_s = _median(lambda _: gallery.identify_many(probes, threshold=THRESHOLD), max(rounds // 5, 1))
            nearest = gallery.nearest_people(np.stack(probes), 1)
            found = sum(found[0].person == _name(k) for k, found in enumerate(nearest)) / probed
            strangers = synthetic_people(rounds, 1, rng)
            enrol_s = _median(lambda k: gallery.enrol(f"new {k}", list(strangers[k])), rounds)
            remove_s = _median(lambda k: _remove_and_search(gallery, f"new {k}", probes[0]), rounds)
    return GalleryTimes(
        templates=people * TEMPLATES_PER_PERSON,
        fill_per_second=people * TEMPLATES_PER_PERSON / fill_s,
        megabytes=megabytes,
        open_ms=1000 * open_s,
        search_ms=1000 * search_s,
        batch_search_ms=1000 * batch_s / probed,
        memory_limit_ms=1000 * people * TEMPLATES_PER_PERSON * DIMENSION * 4 / bandwidth,
        enrol_ms=1000 * enrol_s,
        remove_ms=1000 * remove_s,
        found=found,
    )


def _fill(gallery: Gallery, first: NDArray[np.float32], people: int, rng: np.random.Generator) -> None:
    """Write everybody in one transaction, past the policy: a million enrolments one by one would take hours."""
    with gallery.store.writing():
        now = gallery.now()
        for start in range(0, people, 1000):
            count = min(1000, people - start)
            block = synthetic_people(count, TEMPLATES_PER_PERSON, rng)
            if start == 0:
                block[: len(first)] = first
            for k in range(count):
                number = gallery.store.add_person(_name(start + k), now)
                gallery.store.add_templates(number, [NewTemplate(row) for row in block[k]], now)


def _name(number: int) -> str:
    return f"person {number:07d}"


def _remove_and_search(gallery: Gallery, person: str, probe: NDArray[np.float32]) -> None:
    gallery.remove(person)
    gallery.identify(probe, threshold=THRESHOLD)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _median(work: Callable[[int], object], rounds: int) -> float:
    return float(np.median([_seconds(lambda k=k: work(k)) for k in range(rounds)]))  # type: ignore[misc]
