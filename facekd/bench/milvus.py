"""What milvus-lite takes to enrol, open and identify: ``python -m facekd.bench.milvus TEMPLATES`` prints it as JSON.

Processor time, since milvus-lite computes in this process; people of five templates each. With ``--hnsw`` behind it,
instead: how often HNSW finds the person whom exact search finds.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facekd.bench.synthetic_people import DIMENSION, synthetic_people
from facekd.gallery import Gallery, NewTemplate
from facekd.gallery.milvus import MilvusStore
from facekd.gallery.milvus_tables import template_collection

EACH = 5
PEOPLE_A_CHANGE = 1000
PROBES = 20
HNSW_PROBES = 200
HNSW = {"M": 32, "efConstruction": 400}
"""As docs/milvus.md advises."""


def measure(templates: int, folder: Path) -> dict[str, float]:
    """Fill a gallery in ``folder``, open it again and ask it."""
    rng = np.random.default_rng(0)
    clock = time.process_time
    people = templates // EACH
    figures: dict[str, float] = {"templates": people * EACH}
    last = np.empty((0, EACH, DIMENSION), np.float32)
    enrolling = 0.0
    with Gallery.open(f"milvus-lite:{folder}", contract="bench") as gallery:
        for start in range(0, people, PEOPLE_A_CHANGE):
            last = synthetic_people(min(PEOPLE_A_CHANGE, people - start), EACH, rng)
            begun = clock()
            _enrol(gallery, last, start)
            enrolling += clock() - begun
    figures["fill_ms_a_template"] = 1000 * enrolling / templates
    begun = clock()
    with Gallery.open(f"milvus-lite:{folder}") as gallery:
        gallery.identify(last[0, 0], threshold=0.5)
        figures["open_and_first_answer_s"] = clock() - begun
        begun = clock()
        for rows in last[:PROBES]:
            gallery.identify(rows[0], threshold=0.5)
        figures["identify_ms"] = 1000 * (clock() - begun) / min(PROBES, len(last))
        begun = clock()
        gallery.enrol("one more", [synthetic_people(1, 1, rng)[0, 0]])
        figures["enrol_ms"] = 1000 * (clock() - begun)
        begun = clock()
        gallery.remove("one more")
        figures["remove_ms"] = 1000 * (clock() - begun)
    files = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    figures["disk_bytes_a_template"] = sum(files) / templates
    figures["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {name: round(value, 3) for name, value in figures.items()}


def compare_hnsw(templates: int, folder: Path) -> dict[str, float]:
    """Probes of enrolled people's further photographs: by exact search, then by HNSW over the same templates."""
    rng = np.random.default_rng(0)
    people = synthetic_people(templates // EACH, EACH + 1, rng)
    probes = list(people[:HNSW_PROBES, EACH])
    with Gallery.open(f"milvus-lite:{folder}", contract="bench") as gallery:
        for start in range(0, len(people), PEOPLE_A_CHANGE):
            _enrol(gallery, people[start : start + PEOPLE_A_CHANGE, :EACH], start)
        exact = [decision.best for decision in gallery.identify_many(probes, threshold=0.5)]
        store = gallery.store
        if not isinstance(store, MilvusStore):
            raise TypeError(f"a gallery in Milvus was expected, got {store!r}")
        client, collection = store.client, template_collection(store.address, store.contract)
        client.release_collection(collection)
        client.drop_index(collection, "embedding")
        index = client.prepare_index_params()
        index.add_index("embedding", index_name="embedding", index_type="HNSW", metric_type="IP", params=HNSW)
        client.create_index(collection, index)
        client.load_collection(collection)
    with Gallery.open(f"milvus-lite:{folder}") as gallery:
        found = [decision.best for decision in gallery.identify_many(probes, threshold=0.5)]
    same = sum(one == other for one, other in zip(exact, found, strict=True))
    return {"templates": templates, "probes": len(probes), "same_best_person": same / len(probes)}


def _enrol(gallery: Gallery, people: NDArray[np.float32], first: int) -> None:
    with gallery.store.writing():
        for number, rows in enumerate(people, first):
            person = gallery.store.add_person(f"person {number}", "")
            gallery.store.add_templates(person, [NewTemplate(row) for row in rows], "")


if __name__ == "__main__":
    run = compare_hnsw if "--hnsw" in sys.argv else measure
    with tempfile.TemporaryDirectory() as place:
        sys.stdout.write(json.dumps(run(int(sys.argv[1]), Path(place) / "gallery"), indent=1) + "\n")
