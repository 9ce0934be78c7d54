"""The packaged embedder recipes: each learns a few steps, is cut off and goes on, and is as large as it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from facekd.engine.complexity import measure_complexity  # noqa: E402
from facekd.engine.loop import fit  # noqa: E402
from facekd.engine.settings import find_recipe, parse_recipe, read_toml  # noqa: E402
from facekd.recognition import train  # noqa: E402
from facekd.recognition.backbones import BACKBONES  # noqa: E402
from facekd.recognition.backbones.dense_resnet import SeparableBlock  # noqa: E402
from facekd.recognition.data.shards import FaceSet  # noqa: E402
from facekd.recognition.data.stored_teacher import StoredEmbeddings  # noqa: E402
from facekd.recognition.margins import CurricularFace  # noqa: E402
from facekd.runtime import open_session  # noqa: E402
from facekd.zoo import find_model  # noqa: E402

SHORT = [
    "training.steps=3",
    "training.validate_every=3",
    "training.loader_threads=1",
    "training.threads=1",
    "data.batch=4",
]
# Networks narrower and shallower than the recipes', but for the one that begins as a shipped model.
NARROW = {
    "embedder-fused": "network.options={}",
    "embedder-ir100": "network.options={units=[1, 1, 1, 1], widths=[16, 16, 16, 16], dropout=0.4}",
    "embedder-mobilefacenet": "network.options={widths=[16, 16, 16, 16], blocks=[1, 1, 1], last=32}",
}

TERMS = {
    "embedder-fused": {"distill/cosine", "distill/dense"},
    "embedder-ir100": {"margin", "distill/cosine", "distill/similarity"},
    "embedder-mobilefacenet": {"margin", "distill/cosine", "distill/similarity"},
}
TWO = ("sface-cosine", "sface-similarity", "dlib-cosine")


def faces(seed: int) -> FaceSet:
    rng = np.random.default_rng(seed)
    labels = np.array([0, 0, 1, 1, 2, 2, -1, -1], np.int64)
    crops = rng.integers(0, 256, (8, 112, 112, 3), dtype=np.uint8)
    teachers = {"sface": StoredEmbeddings(rng.normal(size=(8, 128)))}
    return FaceSet(crops, labels, ("a", "b", "c"), teachers)


def settings(name: str, *changes: str) -> train.Recipe:
    path = find_recipe(name)
    return parse_recipe(train.Recipe, read_toml(path, changes), path)


@pytest.mark.parametrize("name", sorted(NARROW))
def test_a_few_steps_cut_off_and_gone_on_with(name: str, tmp_path: Path) -> None:
    recipe = settings(name, *SHORT, NARROW[name])
    task = train.with_teachers(train.EmbedderTask(recipe, faces(0), faces(1)), faces(0))
    assert set(task.losses(task.batch(0), 0, 1.0)) == TERMS[name]
    first = fit(task, recipe.training, tmp_path, stop_after=2)
    task = train.with_teachers(train.EmbedderTask(recipe, faces(0), faces(1)), faces(0))
    second = fit(task, recipe.training, tmp_path, resume=True)
    assert (first.step, second.step, len(second.losses)) == (2, 3, 1)
    exported = open_session(second.best_path.read_bytes(), 1)
    assert exported.run({"face": np.zeros((2, 3, 112, 112), np.float32)})[0].shape == (2, 512)


def test_two_stored_teachers_teach_one_student(tmp_path: Path) -> None:
    narrow = "network.options={widths=[16, 16, 16, 16], blocks=[0, 1, 1, 1]}"
    recipe = settings("embedder-two-teachers", *SHORT, narrow, "training.steps=4", "training.validate_every=4")
    said = np.random.default_rng(5).normal(size=(8, 128))
    two = replace(faces(0), teachers={**faces(0).teachers, "dlib": StoredEmbeddings(said)})
    task = train.with_teachers(train.EmbedderTask(recipe, two, faces(1)), two)
    terms = {f"distill/{name}" for name in TWO}
    assert set(task.losses(task.batch(0), 0, 1.0)) == {"margin", *terms}
    adapters = {
        name: parts[0].map.weight for name, parts in zip(TWO, task.distiller.adapters, strict=True) if "cos" in name
    }
    before = {name: weight.detach().clone() for name, weight in adapters.items()}
    outcome = fit(task, recipe.training, tmp_path)
    assert outcome.step == 4
    assert np.isfinite(outcome.losses).all()
    assert all(not torch.equal(before[name], weight) for name, weight in adapters.items())  # each teacher's own map
    dense = settings("embedder-dense")
    for part in ("training", "network", "data", "margin"):
        assert getattr(settings("embedder-two-teachers"), part) == getattr(dense, part)


@pytest.mark.parametrize("name", [*sorted(NARROW), "embedder-dense", "embedder-two-teachers"])
def test_pixels_are_prepared_like_the_shipped_models(name: str) -> None:
    assert settings(name).preprocessing == find_model("embedder").preprocessing


def test_the_teacher_is_the_papers() -> None:
    recipe = settings("embedder-ir100")
    with torch.device("meta"):
        network = BACKBONES[recipe.network.backbone](dimension=recipe.network.dimension, **recipe.network.options)
        head = train._margin_head(recipe, 10)
    assert measure_complexity(network).parameters == 65_156_160
    assert isinstance(head, CurricularFace)
    assert (head.scale, head.margin) == (64.0, 0.5)
    # The authors' configuration: SGD, rate 0.1 at 512 photographs a step, decay 5e-4, dropout 0.4.
    training = recipe.training
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("sgd", 0.1, 5e-4)
    assert (recipe.data.batch, network.dropout.p, training.precision) == (512, 0.4, "bf16-mixed")


@pytest.mark.parametrize("name", ["embedder-fused", "embedder-mobilefacenet"])
def test_the_students_keep_within_their_limits(name: str) -> None:
    recipe = settings(name)
    with torch.device("meta"):
        network = BACKBONES[recipe.network.backbone](dimension=recipe.network.dimension, **recipe.network.options)
    found = measure_complexity(network)
    assert found.parameters <= 2_100_000
    assert found.multiply_adds <= 450_000_000
    assert recipe.network.dimension == 512
    assert recipe.data.augmentation.mask > 0
    assert not any(isinstance(module, torch.nn.PReLU) for module in network.modules())


def test_the_fused_student_first_learns_in_its_bottlenecks_and_head_only() -> None:
    recipe = settings("embedder-fused", *SHORT)
    task = train.with_teachers(train.EmbedderTask(recipe, faces(0), faces(1)), faces(0))
    sum(task.losses(task.batch(0), 0, 0.0).values()).backward()
    learns = {name for name, value in task.student.named_parameters() if value.grad is not None}
    bottlenecks = [f"body.{i}." for i, block in enumerate(task.student.body) if isinstance(block, SeparableBlock)]
    assert len(bottlenecks) == 2
    free = (*bottlenecks, "pool.", "project.", "norm.")
    assert learns == {name for name, _ in task.student.named_parameters() if name.startswith(free)}
    sum(task.losses(task.batch(0), 0, recipe.network.thaw).values()).backward()
    assert all(value.grad is not None for value in task.student.parameters())
