"""The class-parallel, sampled head: two processes against one, and what sampling keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from facekd.recognition.margins import MARGIN_HEADS, ArcFace, CosFace, CurricularFace  # noqa: E402
from facekd.recognition.partial_fc import PartialFC  # noqa: E402

CLASSES, DIMENSION = 13, 6  # 13 does not divide by two


@pytest.fixture(scope="module")
def given() -> dict:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 5, -1, 12, 7, 6, 2, -1, 12, 12])
    return {
        "centres": torch.randn(CLASSES, DIMENSION, generator=generator),
        "backbone": torch.randn(DIMENSION, DIMENSION, generator=generator),
        "batches": [
            (5 * torch.randn(10, DIMENSION, generator=generator), labels),
            (5 * torch.randn(10, DIMENSION, generator=generator), labels.roll(3).clamp_min(0)),
        ],
    }


@pytest.fixture(scope="module")
def two_ranks(
    given: dict, tmp_path_factory: pytest.TempPathFactory, run_two_ranks: Callable[..., tuple[list[int], list[str]]]
) -> list[dict]:
    """What two gloo processes computed."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(given, folder / "input.pt")
    codes, errors = run_two_ranks(Path(__file__).with_name("partial_fc_worker.py"), folder)
    assert codes == [0, 0], errors
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", sorted(MARGIN_HEADS))
def test_two_processes_give_the_loss_and_gradients_of_one(name: str, given: dict, two_ranks: list[dict]) -> None:
    head = MARGIN_HEADS[name](CLASSES, DIMENSION, scale=16.0)
    with torch.no_grad():
        head.weight.copy_(given["centres"])
    first, second = (rank[name] for rank in two_ranks)
    for step, (embeddings, labels) in enumerate(given["batches"]):
        whole = embeddings.clone().requires_grad_()
        head.zero_grad()
        loss = head(whole[labels >= 0], labels[labels >= 0])
        loss.backward()
        assert torch.equal(first["losses"][step], second["losses"][step])
        torch.testing.assert_close(first["losses"][step], loss.detach(), rtol=1e-4, atol=1e-5)
        gradients = [rank["gradients"][step] for rank in (first, second)]
        torch.testing.assert_close(torch.cat([g[0] for g in gradients]), whole.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(torch.cat([g[1] for g in gradients]), head.weight.grad, rtol=1e-4, atol=1e-6)
        assert whole.grad.abs().max() > 1e-3
    for key, value in head.named_buffers():
        assert torch.equal(first["buffers"][key], second["buffers"][key]), key  # t is the same on all ranks
        torch.testing.assert_close(first["buffers"][key], value, rtol=1e-5, atol=1e-7)
    assert torch.equal(first["centres"], given["centres"])


def test_a_data_parallel_backbone_gets_the_gradient_of_the_whole_batch(given: dict, two_ranks: list[dict]) -> None:
    backbone = given["backbone"].clone().requires_grad_()
    head = CurricularFace(CLASSES, DIMENSION, scale=16.0)
    with torch.no_grad():
        head.weight.copy_(given["centres"])
    embeddings, labels = given["batches"][0]
    known = labels >= 0
    head(F.linear(embeddings[known], backbone), labels[known]).backward()
    for rank in two_ranks:
        torch.testing.assert_close(rank["data_parallel"], backbone.grad, rtol=1e-4, atol=1e-6)


def test_sampled_ranks_agree_with_a_softmax_over_what_they_drew(given: dict, two_ranks: list[dict]) -> None:
    (loss, first), (other, second) = (rank["sampled"] for rank in two_ranks)
    assert torch.equal(loss, other)
    drawn = torch.cat([first, second])
    embeddings, labels = given["batches"][1]
    assert set(labels.tolist()) <= set(drawn.tolist())
    assert len(drawn) < CLASSES
    head = ArcFace(len(drawn), DIMENSION, scale=16.0)
    with torch.no_grad():
        head.weight.copy_(given["centres"][drawn])
    expected = head(embeddings, torch.searchsorted(drawn, labels))
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_recipe_spreads_its_people_over_ranks_whose_students_and_adapters_stay_alike(two_ranks: list[dict]) -> None:
    first, second = (rank["embedder"] for rank in two_ranks)
    assert (first["classes"], second["classes"]) == (3, 4)
    assert not torch.equal(first["drawn"], second["drawn"])  # each has photographs of its own
    assert first["losses"] == second["losses"]
    for part in ("student", "adapter"):
        assert first[part]
        for name, value in first[part].items():
            torch.testing.assert_close(value, second[part][name], rtol=1e-5, atol=1e-7, msg=name)
    moved = [
        name
        for name, value in first["student"].items()
        if not torch.equal(value, first["first"][f"task.student.{name}"])
    ]
    assert len(moved) == len(first["student"])


def test_ranks_clip_their_gradients_by_the_same_factor(two_ranks: list[dict]) -> None:
    # Norms are 5 and 13, the limit is 6.5: the larger one decides for both.
    shared = torch.tensor([[1.5, 2.0]])
    for rank, own in zip(two_ranks, (0.0, 6.0), strict=True):
        torch.testing.assert_close(rank["clipped"][0], shared)
        torch.testing.assert_close(rank["clipped"][1], torch.tensor([[own]]))


def test_one_process_needs_no_process_group_and_is_the_plain_head(given: dict) -> None:
    embeddings, labels = given["batches"][1]
    for name, kind in MARGIN_HEADS.items():
        parallel, plain = PartialFC(kind, CLASSES, DIMENSION), kind(CLASSES, DIMENSION)
        parallel.set_centres(given["centres"])
        plain.load_state_dict(parallel.head.state_dict())
        torch.testing.assert_close(parallel(embeddings, labels), plain(embeddings, labels), msg=name)


def test_sampling_keeps_positives_changes_and_repeats_after_resuming() -> None:
    head = PartialFC(partial(CosFace, margin=0.2), 200, 4, sample_rate=0.1, seed=3)
    labels = torch.tensor([3, 199, 3, 77])
    drawn = [head._sample(labels) for _ in range(3)]
    for chosen in drawn:
        assert len(chosen) == 20
        assert torch.equal(chosen, chosen.unique())  # sorted, none twice
        assert set(labels.tolist()) <= set(chosen.tolist())
    assert not torch.equal(drawn[0], drawn[1])
    resumed = PartialFC(partial(CosFace, margin=0.2), 200, 4, sample_rate=0.1, seed=3)
    resumed.load_state_dict(head.state_dict())
    assert torch.equal(resumed._sample(labels), head._sample(labels))
    assert len(head._sample(torch.arange(50))) == 50  # more people in the batch than the rate asks for
    assert head.eval()._sample(labels) is None  # judged on all classes


def test_classes_that_were_not_drawn_get_no_gradient() -> None:
    head = PartialFC(CurricularFace, 50, 4, sample_rate=0.2)
    labels = torch.tensor([4, 9, -1])
    head(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), labels).backward()
    touched = torch.nonzero(head.head.weight.grad.abs().sum(1))[:, 0]
    assert len(touched) == 10
    assert {4, 9} <= set(touched.tolist())


def test_a_batch_of_strangers_costs_nothing() -> None:
    embeddings = torch.randn(3, 4, requires_grad=True)
    loss = PartialFC(CurricularFace, 5, 4)(embeddings, torch.full((3,), -1))
    loss.backward()
    assert loss == 0
    assert embeddings.grad.abs().sum() == 0


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="sample_rate"):
        PartialFC(ArcFace, 10, 4, sample_rate=0.0)
    with pytest.raises(ValueError, match="1 classes"):
        PartialFC(ArcFace, 1, 4)
    with pytest.raises(ValueError, match="wants"):
        PartialFC(ArcFace, 10, 4).set_centres(torch.zeros(9, 4))
