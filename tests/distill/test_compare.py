"""The comparison: one data set, one student, one judge; the same start for every method; verdicts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from facekd.distill.compare import compare, make_task, open_teachers
from facekd.distill.comparison import Comparison, Entry
from facekd.distill.opening import build_network, distil
from facekd.distill.outcome import verdict
from facekd.distill.settings import DistillSettings
from facekd.distill.teachers import network_digest
from facekd.errors import ConfigError
from facekd.runtime import open_session
from tests.distill.small_stage import Stage, Task, comparison_table, small, write


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    return write(small(8), tmp_path / "teacher.onnx")


@pytest.fixture
def table(teacher: Path) -> dict:
    return comparison_table(teacher)


def test_every_row_has_every_seed_and_all_are_judged_by_one_judge_on_one_set(tmp_path: Path, table, teacher) -> None:
    stage, said = Stage(), []
    recipe = Comparison.model_validate(table | {"methods": table["methods"][1:2]})
    outcome = compare(recipe, stage, tmp_path / "runs", say=said.append)
    assert [row.name for row in outcome.rows] == ["features, then all"]
    assert all(len(row.figures["accuracy"]) == 2 for row in (outcome.alone, *outcome.rows))
    names = [f"{name}, seed {seed}" for name in ("alone", "features, then all") for seed in (0, 1)]
    assert [text.partition(" (")[0] for text in said] == names
    assert "(0 of 4 finished)" in said[0]
    assert re.search(r"\(3 of 4 finished, about \d+ min left for one process\)", said[3])
    # Teacher and students pass the same judge: the figures can stand in one table.
    assert len(stage.judged) == 5
    assert stage.judged[-1] == teacher
    assert outcome.teachers == {"large": stage.judge(teacher)}
    assert outcome.missing == {}
    assert outcome.steps == 3
    exported = open_session(outcome.rows[0].weights[0].read_bytes(), threads=1)
    assert exported.outputs == ("logits",)

    again = Stage()
    assert compare(recipe, again, tmp_path / "runs") == outcome
    assert again.judged == []  # nothing was trained or judged twice


def test_first_weights_and_batches_depend_on_the_seed_not_on_the_method(table) -> None:
    recipe, stage = Comparison.model_validate(table), Stage()
    teachers, _ = open_teachers(recipe, stage, {})
    tasks = [make_task(recipe, entry, stage, teachers, seed) for seed in (0, 1) for entry in recipe.methods[:2]]
    digests = [network_digest(task.student) for task in tasks]
    assert digests[0] == digests[1] != digests[2] == digests[3]
    first, second = tasks[0].batch(5), tasks[1].batch(5)
    assert torch.equal(first["crops"], second["crops"])
    before = teachers["large"].digest
    for task in tasks:
        sum(task.losses(task.batch(0), 0, 0.9).values()).backward()
    assert network_digest(teachers["large"].network) == before
    trained = {name for name, _ in tasks[1].module.named_parameters()}
    assert any(name.startswith("distiller.losses.0.generation") for name in trained)
    assert not any("generation" in name for name in tasks[1].student.state_dict())


def test_the_student_gets_the_strong_view_and_the_teacher_the_clean_mixture(table) -> None:
    recipe, stage = Comparison.model_validate(table), Stage()
    task = make_task(recipe, recipe.methods[2], stage, {}, 0)
    batch, plain = task.batch(3), stage.task(0, None).batch(3)
    assert not torch.allclose(batch["crops"], batch["teacher_crops"])
    changed = (batch["teacher_crops"] != plain["crops"]).flatten(1).float().mean(dim=1)
    assert changed.max() < 1.0  # CutMix keeps the rest of the picture
    assert batch["labels"].shape == (12, 3)
    torch.testing.assert_close(batch["labels"].sum(dim=1), torch.ones(12))
    terms = task.losses(batch, 3, 0.5)
    assert set(terms) == {"label", "distill/kl"}
    assert all(torch.isfinite(term) and term.requires_grad for term in terms.values())
    again = task.batch(3)
    assert all(torch.equal(batch[key], again[key]) for key in batch)  # a pure function of the step


def test_stage_one_learns_features_only(table) -> None:
    recipe, stage = Comparison.model_validate(table), Stage()
    teachers, _ = open_teachers(recipe, stage, {})
    task = make_task(recipe, recipe.methods[1], stage, teachers, 0)
    early, late = task.losses(task.batch(0), 0, 0.1), task.losses(task.batch(0), 0, 0.9)
    assert early["label"].item() == 0.0
    assert late["label"].item() > 0.0
    assert early["distill/mgd"].item() > 0.0


def test_ensembles_and_online_teachers_are_a_recipes_too(tmp_path: Path, table, teacher) -> None:
    torch.manual_seed(11)
    second = write(small(6), tmp_path / "second.onnx")
    teachers = {
        "large": {"file": str(teacher)},
        "second": {"file": str(second), "architecture": "small", "options": {"width": 6}},
        "both": {"kind": "ensemble", "members": ["large", "second"]},
        "peer": {"kind": "online", "architecture": "small", "options": {"width": 6}},
    }
    methods = [{"name": name, "terms": [{"method": "kl", "source": name}]} for name in ("both", "peer")]
    recipe, stage = Comparison.model_validate(table | {"teachers": teachers, "methods": methods}), Stage()
    fixed, files = open_teachers(recipe, stage, {})
    assert set(fixed) == set(files) == {"large", "second"}
    ensemble, online = (make_task(recipe, entry, stage, fixed, 0) for entry in recipe.methods)
    assert set(ensemble.losses(ensemble.batch(0), 0, 0.0)) == {"label", "distill/kl"}
    terms = online.losses(online.batch(0), 0, 0.0)
    assert set(terms) == {"label", "distill/kl", "teacher/peer"}
    peer = online.distiller.moving["peer"].network
    (terms["label"] + terms["distill/kl"]).backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in peer.parameters())
    online.student.zero_grad(set_to_none=True)
    terms["teacher/peer"].backward()
    assert all(parameter.grad is not None for parameter in peer.parameters())
    assert all(parameter.grad is None for parameter in online.student.parameters())
    same = distil(
        Task(0, None), DistillSettings(teachers=recipe.teachers, terms=recipe.methods[0].terms), {"small": small}
    )
    assert set(same.losses(same.batch(0), 0, 0.0)) == {"label", "distill/kl"}


def test_rows_have_the_teachers_that_they_need_and_no_others(table, teacher) -> None:
    both = {"kind": "ensemble", "members": ["large", "itself"]}
    rows = [{"name": "both", "terms": [{"method": "kl", "source": "both"}]}]
    teachers = table["teachers"] | {"both": both, "peer": {"kind": "online", "architecture": "small"}}
    recipe, stage = Comparison.model_validate(table | {"teachers": teachers, "methods": rows}), Stage()
    fixed, _ = open_teachers(recipe, stage, {})
    alone, mixed = (make_task(recipe, entry, stage, fixed, 0) for entry in (Entry(name="alone"), *recipe.methods))
    assert list(alone.distiller.moving) == []
    assert list(mixed.distiller.moving) == ["itself"]


def test_a_row_that_cannot_work_is_refused_before_any_is_trained(tmp_path: Path, table) -> None:
    wrong = {"name": "wrong", "terms": [{"method": "kl", "source": "large", "student": "9"}]}
    recipe = Comparison.model_validate(table | {"methods": [table["methods"][0], wrong]})
    with pytest.raises(ConfigError, match=r"the row 'wrong' cannot be trained: .*student has no layer '9'"):
        compare(recipe, Stage(), tmp_path / "runs")
    assert not (tmp_path / "runs" / "alone").exists()


def test_what_would_not_be_comparable_is_refused(tmp_path: Path, table) -> None:
    recipe = Comparison.model_validate(table | {"seeds": [0], "methods": table["methods"][:1]})
    with pytest.raises(ConfigError, match="not minutes"):
        compare(recipe, Stage(minutes=1.0), tmp_path / "a")
    with pytest.raises(ConfigError, match="pass --teacher large=FILE"):
        open_teachers(recipe, Stage(), {"large": tmp_path / "none.onnx"})
    with pytest.raises(ConfigError, match=r"no teacher \['huge'\]"):
        open_teachers(recipe, Stage(), {"huge": tmp_path / "none.onnx"})
    with pytest.raises(ConfigError, match="known are small"):
        build_network(Stage().architectures, "smal", {})
    with pytest.raises(ConfigError, match="small: "):
        build_network(Stage().architectures, "small", {"depth": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [1, 1]}, "same seed twice"),
        ({"seeds": []}, "at least 1"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"set": ["training.steps=3", "training.seed=5"]}, "training.seed has no effect"),
        ({"methods": [{"name": "alone"}]}, "different names"),
        ({"methods": [{"name": "a b"}, {"name": "A-B"}]}, "different names"),
        ({"method": []}, "method"),
        ({"teachers": {"e": {"kind": "ensemble", "members": ["x", "y"]}}}, "'x' is no teacher"),
        ({"teachers": {"e": {"kind": "ensemble"}}}, "needs members"),
        ({"teachers": {"o": {"kind": "online"}}}, "needs architecture"),
        ({"teachers": {"other": {"kind": "ema"}}}, "soft labels: kl: source = 'large' names no teacher"),
        ({"methods": [{"name": "r", "terms": [{"method": "kl"}]}]}, "r: kl could mean any of large, itself"),
        ({"methods": [{"name": "r", "teachers": {"t": {"kind": "ema"}}}]}, "r: a row has no teachers of its own"),
    ],
)
def test_faults_of_a_comparison_are_named(table, change, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Comparison.model_validate(table | change)


@pytest.mark.parametrize(
    ("alone", "distilled", "word"),
    [
        ((0.90, 0.91, 0.92), (0.95, 0.96, 0.97), "helps"),
        ((0.90, 0.91, 0.92), (0.905, 0.915, 0.925), "no difference"),
        ((0.90, 0.91, 0.92), (0.85, 0.99, 0.97), "no difference"),  # a gain within its own spread is none
        ((0.95, 0.96, 0.97), (0.90, 0.91, 0.92), "hurts"),
        ((0.9,), (0.99,), "one seed says nothing"),
    ],
)
def test_verdicts_need_more_than_the_spread(alone, distilled, word: str) -> None:
    assert verdict(alone, distilled) == word
