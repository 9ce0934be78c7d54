"""What cannot end in a model, or would be heeded by nothing, is refused before the first step."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from facekd.engine.settings import parse_recipe
from facekd.errors import ConfigError, DataError
from facekd.recognition import mask_train, train
from facekd.recognition.data.mask_shards import MaskSet
from facekd.recognition.data.shards import FaceSet
from facekd.zoo import load_manifest

TRAINING = {"steps": 1, "learning_rate": 0.1}


def crops(count: int) -> np.ndarray:
    return np.zeros((count, 112, 112, 3), np.uint8)


@pytest.mark.parametrize(("split", "left_out"), [("training", 1), ("validation", 2)])
def test_every_status_must_be_among_the_crops_of_both_splits(split: str, left_out: int) -> None:
    every = np.arange(6) % 3
    whole, rest = (MaskSet(crops(len(labels)), labels) for labels in (every, every[every != left_out]))
    sets = {"train": whole, "val": whole, {"training": "train", "validation": "val"}[split]: rest}
    recipe = parse_recipe(mask_train.Recipe, {"kind": "mask", "training": TRAINING})
    name = mask_train.STATUSES[left_out]
    with pytest.raises(ConfigError, match=f"The {split} crops have none labelled '{name}'"):
        mask_train.MaskTask(recipe, **sets)


@pytest.mark.parametrize("people", [[], [0, 0, 0], [0, 1, 2], [0, 1, -1, -1]])
def test_validation_crops_must_have_mated_and_non_mated_pairs(people: list[int]) -> None:
    recipe = parse_recipe(train.Recipe, {"kind": "embedder", "training": TRAINING})
    known = FaceSet(crops(4), np.array([0, 0, 1, 1]), ("a", "b"))
    judged = FaceSet(crops(len(people)), np.array(people, np.int64), ("a", "b", "c"))
    with pytest.raises(DataError, match="two people, and two crops of one"):
        train.EmbedderTask(recipe, known, judged)


@pytest.mark.parametrize(
    ("network", "named"),
    [
        ({"architecture": "resnet", "dropout": 0.9}, "dropout belongs to mask_network, and 'resnet'"),
        ({"architecture": "embedder", "widths": [8, 8, 8]}, "widths belongs to mask_network, and 'embedder'"),
        ({"architecture": "embedder", "trunk": "dense-resnet", "init": "a.onnx"}, "init replaces"),
    ],
)
def test_settings_that_others_switch_off_are_refused(network: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_recipe(mask_train.Recipe, {"kind": "mask", "training": TRAINING, "network": network})


def test_shares_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.shares.*above 0"):
        parse_recipe(mask_train.Recipe, {"kind": "mask", "training": TRAINING, "data": {"shares": [0, 0, 0]}})


def test_a_mask_head_starts_from_a_model_of_the_zoo_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(mask_train, "load_onnx_weights", lambda network, path: asked.append(path))
    whole = MaskSet(crops(6), np.arange(6) % 3)
    network = {"init": "mask-status"}
    recipe = parse_recipe(mask_train.Recipe, {"kind": "mask", "training": TRAINING, "network": network})
    mask_train.MaskTask(recipe, whole, whole)
    assert asked == [load_manifest().models["mask-status"].path]
