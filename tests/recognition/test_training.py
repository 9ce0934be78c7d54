"""The two recognition tasks on a handful of made-up crops: batches repeat, every part learns, exports run."""

from __future__ import annotations

import math
import tracemalloc
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from facekd.distill.embedding import cosine_embedding_loss  # noqa: E402
from facekd.distill.opening import cached_answers, distil  # noqa: E402
from facekd.distill.relation import similarity_matrix_loss  # noqa: E402
from facekd.distill.teachers import TorchTeacher  # noqa: E402
from facekd.engine.loop import TrainingDiverged, fit  # noqa: E402
from facekd.engine.settings import parse_recipe  # noqa: E402
from facekd.errors import ConfigError, DataError  # noqa: E402
from facekd.evaluation.verification import tar_at_far  # noqa: E402
from facekd.recognition import mask_train, train  # noqa: E402
from facekd.recognition.data.augment import Augmentation  # noqa: E402
from facekd.recognition.data.mask_shards import MaskSet  # noqa: E402
from facekd.recognition.data.shards import FaceSet  # noqa: E402
from facekd.recognition.data.stored_teacher import StoredEmbeddings  # noqa: E402
from facekd.recognition.kept_answers import as_teachers, fixed_crops  # noqa: E402
from facekd.recognition.margins import MARGIN_HEADS  # noqa: E402
from facekd.recognition.partial_fc import PartialFC  # noqa: E402
from facekd.runtime import open_session  # noqa: E402

TINY = {"widths": [16, 16, 16, 16], "blocks": [0, 1, 1, 1]}
TERMS = [{"method": "cosine"}, {"method": "similarity", "weight": 4.0}]


def faces(people: int = 3, each: int = 4, seed: int = 0) -> FaceSet:
    """Crops whose people differ in pattern, with a teacher that knows them, and four crops of nobody."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(7).integers(0, 256, (people, 7, 7, 3)).repeat(16, 1).repeat(16, 2)
    labels = np.array([p for p in range(people) for _ in range(each)] + [-1] * 4, np.int64)
    crops = (patterns[labels] + rng.normal(0, 12, (len(labels), 112, 112, 3))).clip(0, 255).astype(np.uint8)
    teacher = np.eye(people, 8, dtype=np.float32)[labels] + rng.normal(0, 0.05, (len(labels), 8)).astype(np.float32)
    return FaceSet(crops, labels, tuple(f"p{i}" for i in range(people)), {"t": StoredEmbeddings(teacher)})


def recipe(**changes: object) -> train.Recipe:
    table: dict = {
        "kind": "embedder",
        "training": {"steps": 16, "learning_rate": 3e-3, "validate_every": 16, "threads": 1, "ema_decay": 0.5},
        "network": {"dimension": 16, "options": TINY},
        "data": {"batch": 8, "sizes": [[0.0, 64], [0.8, 112]]},
        "margin": {"ramp": [0.0, 0.1], "scale": 16.0, "margin": 0.1},
        "distill": {"teachers": {"t": {"kind": "stored"}}, "terms": TERMS},
    }
    for key, value in changes.items():
        table.setdefault(key, {}).update(value)
    return parse_recipe(train.Recipe, table)


def make(settings: train.Recipe, crops: FaceSet | None = None) -> Any:
    """The whole task: the student and its teachers."""
    crops = crops or faces()
    return train.with_teachers(train.EmbedderTask(settings, crops, faces(seed=1)), crops)


def test_batches_are_a_function_of_the_step() -> None:
    first, second = (train.EmbedderTask(recipe(), faces(), faces(seed=1)) for _ in range(2))
    for step in (5, 0, 5, 1):
        a, b = first.batch(step), second.batch(step)
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(first.batch(0)["crops"], first.batch(1)["crops"])


def test_a_pass_sees_every_crop_once() -> None:
    task = train.EmbedderTask(recipe(data={"labelled_share": 0.0}), faces(), faces(seed=1))  # 16 crops, batch 8
    drawn = np.concatenate([task._draw(step, np.random.default_rng(step)) for step in (0, 1)])
    assert sorted(drawn) == list(range(16))


def test_people_are_drawn_alike_when_asked_for() -> None:
    task = train.EmbedderTask(recipe(data={"labelled_share": 0.75, "crops_per_person": 2}), faces(), faces(seed=1))
    labels = faces().labels
    for step in range(4):
        drawn = task._draw(step, np.random.default_rng(step))
        assert len(drawn) == 8
        assert np.bincount(labels[drawn[2:]], minlength=3).tolist() == [2, 2, 2]  # after two of any kind
    a, b = task.batch(1), task.batch(1)
    assert torch.equal(a["crops"], b["crops"])


def test_some_crops_of_each_person_are_the_first_of_a_shuffled_row() -> None:
    labels = np.random.default_rng(3).integers(-1, 9, 200)
    found = train._some_of_each(labels, 6, np.random.default_rng(4))
    seen: dict[int, int] = {}
    expected = []
    for index in np.random.default_rng(4).permutation(200):
        label = int(labels[index])
        if label >= 0 and seen.get(label, 0) < 6:
            seen[label] = seen.get(label, 0) + 1
            expected.append(index)
    assert found.tolist() == expected
    assert train._some_of_each(labels[:0], 6, np.random.default_rng(4)).tolist() == []


def test_centres_of_loaded_weights_are_mean_embeddings_taken_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train.EmbedderTask(recipe(), faces(), faces(seed=1))
    first.export(first.student, tmp_path / "first.onnx")
    monkeypatch.setattr(train, "CHUNK", 5)
    taken: list[int] = []
    embed = train.embed
    monkeypatch.setattr(train, "embed", lambda net, crops, *rest: taken.append(len(crops)) or embed(net, crops, *rest))
    task = train.EmbedderTask(recipe(network={"init": str(tmp_path / "first.onnx")}), faces(), faces(seed=1))
    assert taken == [5, 5, 2]
    rows = embed(first.student, faces().crops[:12])
    centres = rows.reshape(3, 4, -1).mean(1)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    np.testing.assert_allclose(task.module["head"].weight.detach().numpy(), centres, atol=1e-5)


@pytest.mark.parametrize("head", sorted(MARGIN_HEADS))
def test_every_margin_head_can_be_named_in_a_recipe(head: str) -> None:
    task = train.EmbedderTask(recipe(margin={"head": head}), faces(), faces(seed=1))
    assert type(task.module["head"]) is MARGIN_HEADS[head]


def test_every_part_gets_a_gradient() -> None:
    task = make(recipe())
    for name, parameter in task.student.named_parameters():
        if name.endswith("norm2.weight"):  # 0 at the start: blocks are identities, and nothing inside them learns yet
            torch.nn.init.ones_(parameter)
    terms = task.losses(task.batch(0), 0, 0.6)
    assert set(terms) == {"distill/cosine", "distill/similarity", "margin"}
    sum(terms.values()).backward()
    learning = {name: float(p.grad.abs().sum()) for name, p in task.module.named_parameters() if p.grad is not None}
    assert set(learning) == {name for name, _ in task.module.named_parameters()}
    assert {name.split(".")[0] for name in learning} == {"task", "distiller"}
    learning.pop("task.student.pool.norm.bias")  # a constant before BatchNorm: 0 but for rounding
    assert {name: size for name, size in learning.items() if size < 1e-4} == {}


def test_the_loss_falls_and_the_student_alone_is_exported(tmp_path: Path) -> None:
    task = make(recipe())
    outcome = fit(task, recipe().training, tmp_path)
    assert np.mean(outcome.losses[-4:]) < np.mean(outcome.losses[:4])
    embedding = open_session(outcome.best_path.read_bytes(), threads=1).run(
        {"face": np.zeros((2, 3, 112, 112), np.float32)}
    )[0]
    assert embedding.shape == (2, 16)
    graph = onnx.load(outcome.best_path).graph
    assert sum(math.prod(item.dims) for item in graph.initializer) <= sum(
        value.numel() for value in task.student.state_dict().values() if value.is_floating_point()
    )  # neither adapter nor class centres


def test_growing_crops_train_in_bf16_too(tmp_path: Path) -> None:
    settings = recipe(training={"precision": "bf16-mixed", "steps": 6, "validate_every": 6})
    outcome = fit(make(settings), settings.training, tmp_path)
    assert len(outcome.losses) == 6
    assert np.isfinite(outcome.losses).all()


def test_the_terms_are_the_losses_of_the_raw_and_of_the_adapted_embedding() -> None:
    task = make(recipe())
    batch = task.batch(3)
    terms = task.losses(batch, 3, 1.0)
    task.student.train()
    embeddings = task.student(batch["crops"])
    stored = batch["answers/t/output"]
    adapter = task.distiller.adapters[0][0].map
    assert tuple(adapter.weight.shape) == (8, 16)
    torch.testing.assert_close(terms["distill/cosine"], cosine_embedding_loss(adapter(embeddings), stored))
    torch.testing.assert_close(terms["distill/similarity"], 4.0 * similarity_matrix_loss(embeddings, stored))


def test_a_resumed_run_repeats_the_losses_adapters_and_statistics_included(tmp_path: Path) -> None:
    settings = recipe(training={"steps": 4, "validate_every": 4})
    whole = fit(make(settings), settings.training, tmp_path / "whole").losses
    first = fit(make(settings), settings.training, tmp_path / "parts", stop_after=2).losses
    second = fit(make(settings), settings.training, tmp_path / "parts", resume=True).losses
    assert whole == (*first, *second)


def test_stored_embeddings_and_live_teachers_teach_together_each_sees_crops_at_full_size(tmp_path: Path) -> None:
    torch.manual_seed(5)
    narrow = train.BACKBONES["dense_resnet"](dimension=12, **TINY)
    train.export_embedder(narrow, tmp_path / "narrow.onnx")
    single = tmp_path / "single.onnx"  # takes one crop of 112 pixels at a time, as published embedders do
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(narrow.eval(), (torch.zeros(1, 3, 112, 112),), str(single), dynamo=False)
    teachers = {
        "t": {"kind": "stored"},
        "narrow": {
            "file": str(tmp_path / "narrow.onnx"),
            "architecture": "dense_resnet",
            "options": {"dimension": 12, **TINY},
        },
        "single": {"file": str(single), "threads": 1},
    }
    terms = [
        {"method": "cosine", "source": "t"},
        {"method": "angular", "source": "narrow"},
        {"method": "mimic", "source": "narrow", "student": "body.2", "teacher": "body.2"},
        {"method": "similarity", "source": "single"},
    ]
    settings = recipe(distill={"teachers": teachers, "terms": terms}, data={"batch": 4})
    task = make(settings)
    batch = task.batch(0)
    found = task.losses(batch, 0, 0.1)  # the student sees 64 pixels
    assert set(found) == {"margin", *(f"distill/{term['method']}" for term in terms)}
    sum(found.values()).backward()
    assert all(parameter.grad is not None for parameter in task.distiller.parameters())
    known = task.distiller.teacher("single").answer(batch["crops"], ["output"])["output"]
    torch.testing.assert_close(known, narrow(batch["crops"]).detach(), rtol=1e-3, atol=1e-4)
    small = F.interpolate(batch["crops"], size=(64, 64), mode="bilinear", antialias=True, align_corners=False)
    expected = similarity_matrix_loss(task.student.train()(small), known)
    torch.testing.assert_close(found["distill/similarity"], expected, rtol=1e-3, atol=1e-5)


def test_training_goes_on_from_a_shallower_network(tmp_path: Path) -> None:
    torch.manual_seed(5)
    shallow = train.BACKBONES["dense_resnet"](dimension=12, **TINY).eval()
    train.export_embedder(shallow, tmp_path / "shallow.onnx")
    network = {"dimension": 12, "init": tmp_path / "shallow.onnx", "init_options": TINY}
    deeper = {**TINY, "blocks": [0, 1, 2, 1]}
    student = make(recipe(network={**network, "options": deeper})).student.eval()
    crops = torch.randn(2, 3, 112, 112)
    assert len(student.body) == 4
    torch.testing.assert_close(student(crops), shallow(crops))
    with pytest.raises(ConfigError, match="'dense_resnet' and 'fused_mobilefacenet', not 'mobilefacenet'"):
        make(recipe(network={**network, "backbone": "mobilefacenet", "options": {}}))


def test_a_compiled_student_is_tapped_at_its_output_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real compiler needs minutes and a C++ compiler; this one traces as it does, and runs what it traced.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plain, compiled = (make(recipe(training={"compile": flag})) for flag in (False, True))
    for step in range(2):  # the second call runs what the first one traced
        terms = [task.losses(task.batch(step), step, 0.9) for task in (plain, compiled)]
        assert set(terms[0]) == set(terms[1]) == {"margin", "distill/cosine", "distill/similarity"}
        for name, value in terms[0].items():
            torch.testing.assert_close(terms[1][name], value)
        sum(terms[1].values()).backward()
        assert compiled.student.stem[0].weight.grad.abs().sum() > 0
        compiled.module.zero_grad()
    inner = [{"method": "cosine"}, {"method": "attention", "student": "body.2", "teacher": "output"}]
    with pytest.raises(ConfigError, match=r"'body.2' cannot be tapped.*training.compile = false"):
        make(recipe(training={"compile": True}, distill={"terms": inner}))


def test_methods_that_need_people_get_labels_and_the_teachers_centres() -> None:
    terms = [{"method": name} for name in ("centres", "adadistill", "margin-distillation", "ekd")]
    task = make(recipe(distill={"terms": terms}))
    found = task.losses(task.batch(0), 0, 0.0)
    assert set(found) == {"margin", *(f"distill/{term['method']}" for term in terms)}
    assert all(torch.isfinite(value) for value in found.values())


def test_several_stored_teachers_each_with_terms_and_centres_of_its_own() -> None:
    rng = np.random.default_rng(3)
    crops = faces()
    other = rng.normal(size=(len(crops), 5))
    two = replace(crops, teachers={**crops.teachers, "u": StoredEmbeddings(other)})
    terms = [
        {"method": method, "source": source, "name": f"{source}-{method}"}
        for source in ("t", "u")
        for method in ("cosine", "similarity", "centres", "adadistill")
    ]
    teachers = {"t": {"kind": "stored"}, "u": {"kind": "stored"}}
    task = make(recipe(distill={"teachers": teachers, "terms": terms}), two)
    batch = task.batch(0)
    rows = other / np.linalg.norm(other, axis=1, keepdims=True)
    chosen = task._base._draw(0, np.random.default_rng((0, 0)))
    np.testing.assert_allclose(batch["answers/u/output"], rows[chosen], atol=1e-6)
    np.testing.assert_allclose(batch["answers/t/output"], crops.teachers["t"][:][chosen], atol=1e-6)
    found = task.losses(batch, 0, 0.0)
    assert set(found) == {"margin", *(f"distill/{term['name']}" for term in terms)}
    for number, source in ((2, "t"), (6, "u")):
        said = two.teachers[source][:12].reshape(3, 4, -1).sum(1)
        np.testing.assert_allclose(
            task.distiller.losses[number].centres, said / np.linalg.norm(said, axis=1, keepdims=True), atol=1e-5
        )
    with pytest.raises(ConfigError, match=r"could mean any of t, u: say which, source = NAME"):
        make(recipe(distill={"teachers": teachers, "terms": [{"method": "centres"}]}), two)
    with pytest.raises(ConfigError, match=r"could mean any of t, u: say which, source = NAME"):
        make(recipe(distill={"teachers": teachers, "terms": [{"method": "cosine"}]}), two)


STILL = dict.fromkeys(Augmentation.model_fields, 0.0)


def large(tmp_path: Path, **more: object) -> dict:
    torch.manual_seed(5)
    train.export_embedder(train.BACKBONES["dense_resnet"](dimension=12, **TINY), tmp_path / "large.onnx")
    options = {"dimension": 12, **TINY}
    return {"file": str(tmp_path / "large.onnx"), "architecture": "dense_resnet", "options": options, **more}


def with_cache(settings: train.Recipe, crops: FaceSet) -> Any:
    pictures = fixed_crops(crops.crops, settings.preprocessing, settings.data.augmentation, crops.keys)
    cached = cached_answers(settings.distill, train.BACKBONES, pictures)
    return train.with_teachers(train.EmbedderTask(settings, crops, faces(seed=1), cached), crops)


def test_kept_answers_give_the_losses_of_a_teacher_that_is_asked_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taps = {"student": "body.1", "teacher": "body.1"}
    terms = [{"method": "cosine"}, {"method": "similarity"}, {"method": "mimic", **taps}]
    data = {"augmentation": STILL, "sizes": [[0.0, 112]], "batch": 4}
    teacher = large(tmp_path)
    live = make(recipe(distill={"teachers": {"large": teacher}, "terms": terms}, data=data))
    kept = {"large": teacher | {"cache": str(tmp_path / "kept")}}
    settings = recipe(distill={"teachers": kept, "terms": terms}, data=data)
    task = with_cache(settings, faces())
    task.module.load_state_dict(live.module.state_dict())
    for step in range(2):
        wanted, found = live.losses(live.batch(step), step, 0.5), task.losses(task.batch(step), step, 0.5)
        assert set(wanted) == set(found) == {"margin", "distill/cosine", "distill/similarity", "distill/mimic"}
        for name, value in wanted.items():
            tolerance = 2e-3 if name == "distill/mimic" else 1e-5  # maps are kept as float16
            torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance)
    monkeypatch.setattr(TorchTeacher, "answer", _only_one_batch(TorchTeacher.answer))
    with_cache(settings, faces())  # a look at the shapes, and nothing more
    with pytest.raises(DataError, match="stale: its data"):
        with_cache(settings, faces(seed=2))
    moved = recipe(distill={"teachers": kept, "terms": terms}, data=data | {"augmentation": STILL | {"flip": 0.5}})
    with pytest.raises(ConfigError, match=r"maps at body\.1 of crops as they are, and augmentation\.flip move"):
        with_cache(moved, faces())


def _only_one_batch(answer: Any) -> Any:
    def once(teacher: Any, pictures: torch.Tensor, taps: Any) -> Any:
        asked.append(len(pictures))
        assert len(asked) <= 3
        return answer(teacher, pictures, taps)

    asked: list[int] = []
    return once


def test_kept_answers_serve_for_class_centres_spaces_and_first_adapters(tmp_path: Path) -> None:
    teacher = large(tmp_path, cache=str(tmp_path / "kept"))
    terms = [{"method": method, "source": "large", "adapter": "always"} for method in ("cosine", "centres")]
    distill = {"teachers": {"large": teacher, "t": {"kind": "stored"}}, "terms": terms}
    network = {"init": str(tmp_path / "large.onnx"), "dimension": 12, "space": "teacher", "space_teacher": "large"}
    task = with_cache(recipe(distill=distill, network=network), faces())
    rows = train.embed(task.student, faces().crops)  # the student is its own teacher
    centres = rows[:12].reshape(3, 4, -1).mean(1)
    found = task.distiller.losses[1].centres.numpy()
    np.testing.assert_allclose(found, centres / np.linalg.norm(centres, axis=1, keepdims=True), atol=1e-4)
    given = train.embed(task._base._finished(task.student), faces().crops, normalised=False)
    assert np.abs(given.mean(axis=0)).max() < 1e-3 * np.abs(given).max()  # centred
    adapted = rows @ task.distiller.adapters[0][0].map.weight.detach().numpy().T
    adapted /= np.linalg.norm(adapted, axis=1, keepdims=True)
    assert float((adapted * rows).sum(1).min()) > 0.99


def test_sampled_classes_train_and_the_head_is_whole_without(tmp_path: Path) -> None:
    settings = recipe(margin={"sample_rate": 0.5}, training={"steps": 4, "validate_every": 4}, distill={"terms": []})
    crops = faces(people=8, each=2)
    task = make(settings, crops)
    head = task.module["head"]
    assert isinstance(head, PartialFC)
    before = head.head.weight.detach().clone()
    outcome = fit(task, settings.training, tmp_path)
    assert all(np.isfinite(outcome.losses))
    assert int(head.draws) == 3  # in the first step its weight is 0
    assert not torch.equal(before, head.head.weight)
    again = make(recipe(margin={"sample_rate": 0.5}, network={"init": str(outcome.best_path)}), crops)
    torch.testing.assert_close(again.module["task"]["head"].head.weight.norm(dim=1), torch.ones(8))
    assert not isinstance(make(recipe()).module["task"]["head"], PartialFC)
    with pytest.raises(ConfigError, match="sample_rate"):
        recipe(margin={"sample_rate": 0.0})


@pytest.mark.parametrize(("head", "statistic"), [("curricularface", "t"), ("adaface", "mean")])
@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
def test_no_head_sees_anything_while_its_weight_is_0(head: str, statistic: str, sample_rate: float) -> None:
    margin = {"head": head, "sample_rate": sample_rate, "ramp": [0.2, 0.4]}
    task = train.EmbedderTask(recipe(margin=margin), faces(), faces(seed=1))
    part: Any = task.module["head"]
    inner = part.head if sample_rate < 1 else part
    first = float(getattr(inner, statistic))
    found = task.losses(task.batch(0), 0, 0.2)["margin"]
    found.backward()
    assert found.item() == 0.0
    assert float(getattr(inner, statistic)) == first
    assert part.head.weight.grad is None if sample_rate < 1 else part.weight.grad is None
    task.losses(task.batch(1), 1, 0.3)
    assert float(getattr(inner, statistic)) != first


def test_validation_compares_all_pairs_of_people_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = np.append(np.repeat(np.arange(100), 20), [-1, -1])
    rows = rng.normal(size=(100, 16))[labels] + 0.9 * rng.normal(size=(len(labels), 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    first, second = np.triu_indices(2000, 1)
    scores = (rows[:2000] @ rows[:2000].T)[first, second]
    same = labels[first] == labels[second]
    wanted = {far: tar_at_far(scores[same], scores[~same], far).tar for far in (1e-2, 1e-3, 1e-4)}
    assert 0.05 < wanted[1e-4] < wanted[1e-2] < 0.95
    val = FaceSet(np.zeros((len(labels), 1, 1, 3), np.uint8), labels, tuple(f"p{i}" for i in range(100)))
    task = train.EmbedderTask(recipe(), faces(), val)
    monkeypatch.setattr(train, "embed", lambda *_: rows)
    tracemalloc.start()
    found = task.validate(task.student)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == pytest.approx({"score": wanted[1e-3], "tar_1e-2": wanted[1e-2], "tar_1e-4": wanted[1e-4]}, abs=2e-4)
    assert most < 40e6  # bytes; 2 million pairs at once took 74 million
    monkeypatch.setattr(train, "embed", lambda *_: rows * np.nan)
    with pytest.raises(TrainingDiverged, match="length nan"):
        task.validate(task.student)


def test_starting_from_onnx_restores_the_student_and_refits_adapter_and_centres(tmp_path: Path) -> None:
    first = train.EmbedderTask(recipe(), faces(), faces(seed=1))
    train.export_embedder(first.student, tmp_path / "start.onnx")
    settings = recipe(network={"init": str(tmp_path / "start.onnx")}, training={"seed": 9})
    whole = make(settings)
    second = whole.module["task"]
    crops = faces().crops
    np.testing.assert_allclose(train.embed(whole.student, crops), train.embed(first.student, crops), atol=1e-6)
    centres = second["head"].weight.detach().numpy()
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1.0, atol=1e-5)
    adapted = train.embed(whole.student, crops) @ whole.distiller.adapters[0][0].map.weight.detach().numpy().T
    adapted /= np.linalg.norm(adapted, axis=1, keepdims=True)
    cosine = float((adapted * faces().teachers["t"][:]).sum(1).mean())
    assert cosine > 0.9  # sixteen embeddings of sixteen numbers: least squares must nearly reproduce the teacher


def test_what_does_not_fit_together_is_refused() -> None:
    blind = FaceSet(faces().crops, faces().labels, faces().people)
    with pytest.raises(ConfigError, match="stored teacher 't'"):
        make(recipe(), blind)
    ema = {
        "teachers": {"t": {"kind": "stored"}, "own": {"kind": "ema"}},
        "terms": [{"method": "cosine", "source": "own"}],
    }
    unasked = make(recipe(distill=ema), blind)  # a stored teacher that no term asks need not be there
    assert "distill/cosine" in unasked.losses(unasked.batch(0), 0, 0.0)
    with pytest.raises(ConfigError, match="learns nothing"):
        make(recipe(margin={"weight": 0.0}, distill={"terms": []}))
    both = {
        "teachers": {"t": {"kind": "stored"}, "u": {"kind": "stored"}},
        "terms": [{"method": "cosine", "source": "u"}],
    }
    with pytest.raises(ConfigError, match="stored teacher 'u'"):
        make(recipe(distill=both))
    own = {"method": "centres", "source": "own"}
    with pytest.raises(ConfigError, match=r"class centres of its teacher 'own'.*kept of t\. Set source"):
        make(recipe(distill=ema | {"terms": [own]}))
    with pytest.raises(ConfigError, match="unknown backbone"):
        recipe(network={"backbone": "resnet9000"})
    with pytest.raises(ConfigError, match="sizes must start"):
        recipe(data={"sizes": [[0.5, 112]]})


def mask_set(seed: int) -> MaskSet:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), 6)
    crops = rng.integers(90, 160, (18, 112, 112, 3))
    crops[labels == 1, 60:] = 250  # bright below: mask; bright at the chin only: incorrect
    crops[labels == 2, 90:] = 250
    return MaskSet(crops.astype(np.uint8), labels)


def test_mask_head_learns_three_patterns(tmp_path: Path) -> None:
    settings = parse_recipe(
        mask_train.Recipe,
        {
            "kind": "mask",
            "training": {"steps": 60, "learning_rate": 5e-3, "validate_every": 60, "threads": 1, "ema_decay": 0.8},
            "network": {"widths": [16, 16, 16], "dropout": 0.0},
            "data": {"batch": 12, "shares": [0.33, 0.33, 0.33]},
        },
    )
    task = mask_train.MaskTask(settings, mask_set(0), mask_set(1))
    first, again = task.batch(3), task.batch(3)
    assert torch.equal(first["crops"], again["crops"])
    outcome = fit(task, settings.training, tmp_path)
    assert outcome.best_score > 0.9
    logits = open_session(outcome.best_path.read_bytes(), threads=1).run(
        {"face": np.zeros((1, 3, 112, 112), np.float32)}
    )[0]
    assert logits.shape == (1, 3)


def test_answers_to_mask_crops_and_faces_are_kept_and_mixed_as_probabilities(tmp_path: Path) -> None:
    train_crops = mask_set(0)
    bare = np.random.default_rng(4).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)
    plain = {
        "kind": "mask",
        "training": {"steps": 1, "learning_rate": 5e-3},
        "network": {"widths": [16, 16, 16], "dropout": 0.0},
        "data": {"batch": 12, "faces": ["x"], "faces_share": 0.5, "augmentation": STILL},
    }
    first = mask_train.MaskTask(parse_recipe(mask_train.Recipe, plain), train_crops, mask_set(1))
    first.export(first.student, tmp_path / "large.onnx")
    teachers = {"large": {"file": str(tmp_path / "large.onnx"), "cache": str(tmp_path / "kept")}}

    def task(**more: object) -> Any:
        settings = parse_recipe(mask_train.Recipe, plain | {"distill": {"teachers": teachers, **more}})
        pictures = fixed_crops(
            mask_train.training_crops(train_crops, bare), settings.preprocessing, settings.data.augmentation
        )
        cached = cached_answers(settings.distill, mask_train.MASK_NETWORKS, pictures)
        base = mask_train.MaskTask(settings, train_crops, mask_set(1), bare, cached)
        known = as_teachers(cached)
        return distil(base, settings.distill, mask_train.MASK_NETWORKS, stored_teachers=known)

    terms = [{"method": "kl"}]
    kept = task(terms=terms)
    batch = kept.batch(0)
    wanted = TorchTeacher(first.student).answer(batch["crops"], ["output"])["output"]
    torch.testing.assert_close(batch["answers/large/output"], wanted, rtol=1e-3, atol=1e-4)
    seen = {crop.tobytes() for crop in batch["crops"].numpy()}
    assert seen & {crop.tobytes() for crop in kept._base.recipe.preprocessing.apply(bare)}
    mixed = task(terms=terms, mix={"kind": "mixup", "share": 1.0}).batch(0)
    torch.testing.assert_close(mixed["answers/large/output"].exp().sum(1), torch.ones(12))  # of two crops each
    composed = {"data": {"folders": ["x"], "composed": [0.0, 0.3, 0.0]}, "distill": {"teachers": teachers}}
    settings = parse_recipe(mask_train.Recipe, plain | composed)
    with pytest.raises(ConfigError, match=r"set data\.composed = \[0, 0, 0\], or leave cache out"):
        mask_train.build_task(settings)


def test_a_status_without_crops_is_refused() -> None:
    settings = parse_recipe(mask_train.Recipe, {"kind": "mask", "training": {"steps": 1, "learning_rate": 0.1}})
    only = MaskSet(mask_set(0).crops[:6], mask_set(0).labels[:6])
    with pytest.raises(ConfigError, match="mask"):
        mask_train.MaskTask(settings, only, mask_set(1))
