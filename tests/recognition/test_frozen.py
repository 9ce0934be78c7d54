"""Parts of a student that stay as they were loaded while the rest learns, and then learn, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from facekd.engine.loop import fit  # noqa: E402
from facekd.errors import ConfigError  # noqa: E402
from facekd.recognition import train  # noqa: E402
from tests.recognition.test_training import TINY, make, recipe  # noqa: E402

FROZEN = ["stem", "body.0"]
TRAINING = {"steps": 8, "validate_every": 8, "loader_threads": 1}


@pytest.fixture
def network(tmp_path: Path) -> dict[str, Any]:
    """The network section of a recipe that starts from weights."""
    torch.manual_seed(11)
    train.export_embedder(train.BACKBONES["dense_resnet"](dimension=16, **TINY), tmp_path / "start.onnx")
    return {"init": tmp_path / "start.onnx", "frozen": FROZEN}


def weights(task: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.student.state_dict().items()}


def moved(task: Any, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in task.student.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_frozen_parts_keep_weights_and_statistics_until_they_thaw(
    network: dict[str, Any], optimizer: str, tmp_path: Path
) -> None:
    settings = recipe(training={**TRAINING, "optimizer": optimizer}, network={**network, "thaw": 0.5})
    task = make(settings)
    before = weights(task)
    begun = fit(task, settings.training, tmp_path / "run", stop_after=4)
    frozen = {name for name in before if name.startswith(tuple(f"{part}." for part in FROZEN))}
    assert any("running_mean" in name for name in frozen)
    assert moved(task, before) == set(before) - frozen

    task = make(settings)
    ended = fit(task, settings.training, tmp_path / "run", resume=True)
    assert moved(task, before) == set(before)

    whole = fit(make(settings), settings.training, tmp_path / "whole")
    assert whole.losses == pytest.approx([*begun.losses, *ended.losses], abs=1e-6)


def test_without_a_thaw_they_stay_to_the_end(network: dict[str, Any], tmp_path: Path) -> None:
    settings = recipe(training=TRAINING, network=network)
    task = make(settings)
    before = weights(task)
    fit(task, settings.training, tmp_path / "run")
    assert not any(name.startswith(("stem.", "body.0.")) for name in moved(task, before))
    assert {"project.weight", "body.2.conv1.weight"} <= moved(task, before)


def test_what_cannot_be_frozen_is_named(network: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"no part 'body.9'; it has stem, stem\.0, .*body\.2, pool.*, norm$"):
        make(recipe(network={**network, "frozen": ["stem", "body.9"]}))
    with pytest.raises(ConfigError, match="frozen keeps parts of the weights in init, and there is no init"):
        recipe(network={"frozen": ["stem"]})
