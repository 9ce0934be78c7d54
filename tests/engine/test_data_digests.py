"""Each stage's task tells its data from others, without looking at pixels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from facekd.detection.refine_train import RefinerTask
from facekd.detection.train import DetectorTask
from facekd.recognition.mask_train import MaskTask
from facekd.recognition.train import EmbedderTask


def faces(*labels: int, first_key: int = 0) -> SimpleNamespace:
    keys = np.arange(first_key, first_key + len(labels), dtype=np.uint64)
    return SimpleNamespace(labels=np.array(labels), keys=keys)


def photograph(*box: float) -> SimpleNamespace:
    return SimpleNamespace(boxes=np.array([box], np.float32))


def source(labels: str) -> SimpleNamespace:
    return SimpleNamespace(photographs="photographs.zip", labels=labels)


def embedder(train: SimpleNamespace, val: SimpleNamespace) -> dict[str, Any]:
    return {"_train": train, "_val": val}


def mask(train: SimpleNamespace, val: SimpleNamespace, bare: int = 5) -> dict[str, Any]:
    return {"_train": train, "_val": val, "_faces": range(bare)}


def detector(train: SimpleNamespace, val: SimpleNamespace) -> dict[str, Any]:
    return {"_collections": [[photograph(0, 0, 9, 9)], [train]], "_validation": [(None, val)]}


def refiner(train: str, val: str) -> dict[str, Any]:
    data = SimpleNamespace(sources=[source("first.txt"), source(train)], validation=source(val))
    return {"recipe": SimpleNamespace(data=data)}


@pytest.mark.parametrize(
    ("task", "own", "other_training", "other_validation"),
    [
        (
            EmbedderTask,
            embedder(faces(0, 1), faces(1)),
            embedder(faces(0, 0), faces(1)),
            embedder(faces(0, 1), faces(0)),
        ),
        (EmbedderTask, embedder(faces(0), faces(1)), embedder(faces(0, first_key=9), faces(1)), None),
        (MaskTask, mask(faces(0, 1), faces(1)), mask(faces(0, 2), faces(1)), mask(faces(0, 1), faces(2))),
        (MaskTask, mask(faces(0), faces(1)), mask(faces(0), faces(1), bare=6), None),
        (
            DetectorTask,
            detector(photograph(1, 2, 3, 4), photograph(5, 6, 7, 8)),
            detector(photograph(1, 2, 3, 5), photograph(5, 6, 7, 8)),
            detector(photograph(1, 2, 3, 4), photograph(5, 6, 7, 9)),
        ),
        (RefinerTask, refiner("a.txt", "b.txt"), refiner("c.txt", "b.txt"), refiner("a.txt", "c.txt")),
    ],
    ids=["embedder", "embedder-crops", "mask", "mask-faces", "detector", "refiner"],
)
def test_a_task_tells_its_data_from_others(
    task: Any, own: dict[str, Any], other_training: dict[str, Any], other_validation: dict[str, Any] | None
) -> None:
    def digests(parts: dict[str, Any]) -> dict[str, str]:
        return task.data_digests(SimpleNamespace(**parts))

    first = digests(own)
    assert digests(own) == first
    assert set(first) == {"training", "validation"}
    for name, other in (("training", other_training), ("validation", other_validation)):
        if other is not None:
            assert {key for key, value in digests(other).items() if value != first[key]} == {name}
