"""An embedder in its teacher's space: the adapter's cosines about the mean, from the same layers."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from facekd.distill.adapters import least_squares_map  # noqa: E402
from facekd.errors import ConfigError  # noqa: E402
from facekd.recognition.backbones.dense_resnet import DenseResNet  # noqa: E402
from facekd.recognition.backbones.ir_resnet import IRResNet  # noqa: E402
from facekd.recognition.data.shards import FaceSet  # noqa: E402
from facekd.recognition.data.stored_teacher import StoredEmbeddings  # noqa: E402
from facekd.recognition.teacher_space import move_to_teacher_space  # noqa: E402
from facekd.recognition.train import EmbedderTask, Recipe, embed  # noqa: E402
from facekd.runtime import open_session  # noqa: E402

CROPS, WIDE, NARROW = 60, 24, 6


@pytest.fixture
def network() -> DenseResNet:
    torch.manual_seed(0)
    network = DenseResNet(WIDE, widths=(16, 16, 16, 16), blocks=(0, 1, 1, 1), size=32)
    with torch.no_grad():
        network(torch.randn(32, 3, 32, 32))  # moves the statistics of BatchNorm
        network.norm.weight.uniform_(0.5, 2.0)
        network.norm.bias.normal_()
    return network.eval()


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.randn(CROPS, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def answers() -> torch.Tensor:
    return F.normalize(torch.randn(CROPS, NARROW, generator=torch.Generator().manual_seed(2)))


@torch.no_grad()
def features_of(network: DenseResNet, crops: torch.Tensor) -> torch.Tensor:
    """What the last linear layer is given."""
    return network.pool(network.body(network.stem(crops)))


def alike(embeddings: torch.Tensor) -> torch.Tensor:
    """Cosines of all pairs."""
    unit = F.normalize(embeddings.double())
    return unit @ unit.T


@torch.no_grad()
def test_what_a_linear_map_of_the_features_can_say_is_said(network: DenseResNet, crops: torch.Tensor) -> None:
    """A teacher whose answers are such a map, and errors alike in all directions: its own cosines come out."""
    features = features_of(network, crops)
    centred = features - features.mean(dim=0)
    answers = F.normalize(centred @ torch.randn(16, NARROW, generator=torch.Generator().manual_seed(3)))
    before = alike(network(crops))
    move_to_teacher_space(network, features, answers)
    moved = network(crops)
    assert moved.shape == (CROPS, WIDE)
    assert moved.mean(dim=0).abs().max() < 1e-4
    assert int(torch.linalg.matrix_rank(moved, rtol=1e-4)) == NARROW
    wanted = alike(answers)
    assert (alike(moved) - wanted).abs().mean() < 0.25 * (before - wanted).abs().mean()
    assert (alike(moved) - wanted).abs().mean() < 0.1


@torch.no_grad()
def test_directions_that_the_student_gets_wrong_count_less(network: DenseResNet) -> None:
    generator = torch.Generator().manual_seed(4)
    crops = torch.randn(400, 3, 32, 32, generator=generator)
    features = features_of(network, crops)
    true = F.normalize(F.normalize(features - features.mean(dim=0)) @ torch.randn(16, NARROW, generator=generator))
    noise = torch.zeros(400, NARROW)
    noise[:, 0] = torch.randn(400, generator=generator)  # what no feature tells, in one of the teacher's directions
    answers = F.normalize(true + 0.7 * noise)
    plain = (features - features.mean(dim=0)) @ least_squares_map(features - features.mean(dim=0), answers, 0.03).T
    move_to_teacher_space(network, features, answers)
    moved = network(crops)
    # Both are linear in the same six numbers: what each of them is worth in the embedding.
    weights = torch.linalg.lstsq(plain, moved).solution.norm(dim=1)
    assert weights[0] < 0.9 * weights[1:].min()
    assert weights[1:].max() < 1.1 * weights[1:].min()


@torch.no_grad()
def test_an_answer_without_any_error_is_no_division_by_zero(network: DenseResNet, crops: torch.Tensor) -> None:
    features = features_of(network, crops)
    move_to_teacher_space(network, features, torch.ones(CROPS, 1))
    assert network(crops).isfinite().all()


@torch.no_grad()
def test_training_goes_on_with_the_same_statistics(
    network: DenseResNet, crops: torch.Tensor, answers: torch.Tensor
) -> None:
    move_to_teacher_space(network, features_of(network, crops), answers)
    expected = network(crops)
    network.norm.train()  # batch statistics are those of the very crops that it was fitted on
    torch.testing.assert_close(network(crops), expected, atol=0.03 * float(expected.std()), rtol=0.03)


def test_what_does_not_fit_is_refused(network: DenseResNet) -> None:
    with pytest.raises(ConfigError, match="IRResNet does not end in project and norm"):
        move_to_teacher_space(
            IRResNet(units=(1, 1, 1, 1), widths=(16, 16, 16, 16)), torch.zeros(4, 8), torch.zeros(4, 2)
        )
    with pytest.raises(ConfigError, match="30 dimensions do not fit in 24"):
        move_to_teacher_space(network, torch.zeros(4, WIDE), torch.zeros(4, 30))


def test_a_recipe_judges_and_exports_in_the_space_that_it_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (14, 112, 112, 3), dtype=np.uint8)
    teacher = StoredEmbeddings(rng.normal(size=(14, 5)))
    table = {
        "kind": "embedder",
        "training": {"steps": 1, "learning_rate": 0.1},
        "network": {"dimension": 8, "options": {"widths": [16] * 4, "blocks": [0, 1, 1, 1]}, "space": "teacher"},
        "distill": {"teachers": {"t": {"kind": "stored"}}, "terms": [{"method": "cosine"}]},
    }
    recipe = Recipe.model_validate(table)
    labels, people = np.repeat(np.arange(7), 2), tuple("abcdefg")
    task = EmbedderTask(recipe, FaceSet(crops, labels, people, {"t": teacher}), FaceSet(crops, labels, people))
    own = embed(task.student, crops)
    task.export(task.student, tmp_path / "moved.onnx")
    moved = open_session((tmp_path / "moved.onnx").read_bytes())
    found = moved.run({"face": recipe.preprocessing.apply(crops)})[0]
    assert np.abs(found.mean(axis=0)).max() < 1e-3 * np.abs(found).max()
    assert "fitted once more" in task.complete(tmp_path / "moved.onnx")
    again = open_session((tmp_path / "moved.onnx").read_bytes()).run({"face": recipe.preprocessing.apply(crops)})[0]
    np.testing.assert_allclose(again, found, atol=1e-3 * np.abs(found).max())  # all 14 crops were enough before
    np.testing.assert_array_equal(embed(task.student, crops), own)  # what is trained stays as it is
    assert set(task.validate(task.student)) == {"score", "tar_1e-2", "tar_1e-4"}
    both = FaceSet(crops, labels, people, {"t": teacher, "u": StoredEmbeddings(rng.normal(size=(14, 3)))})
    with pytest.raises(ConfigError, match=r"could be that of t, u: name one, network\.space_teacher = NAME"):
        EmbedderTask(recipe, both, both)
    table["network"]["space_teacher"] = "u"
    named = EmbedderTask(Recipe.model_validate(table), both, both)
    moved = torch.from_numpy(embed(named._finished(named.student), crops, normalised=False))
    assert int(torch.linalg.matrix_rank(moved - moved.mean(dim=0), rtol=1e-3)) == 3
    with pytest.raises(ConfigError, match="'u' names no teacher whose answers are kept; there are t"):
        EmbedderTask(Recipe.model_validate(table), FaceSet(crops, labels, people, {"t": teacher}), both)
    with pytest.raises(ConfigError, match="needs a stored teacher"):
        EmbedderTask(recipe, FaceSet(crops, labels, people), FaceSet(crops, labels, ()))
