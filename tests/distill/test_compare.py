"""The comparison: one data set, one student, one judge; runs are kept, stale ones refused; figures are measured."""

from __future__ import annotations

import csv
import importlib
import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from facekd.cli import run
from facekd.cli.train import stage_of
from facekd.detection import train as detection_train
from facekd.detection.network import RetinaFace
from facekd.distill.compare import Comparison, compare, make_task, open_teachers, verdict
from facekd.distill.costs import measure_costs
from facekd.distill.opening import build_network, distil
from facekd.distill.report import as_data, as_markdown, plot
from facekd.distill.settings import DistillSettings
from facekd.distill.stages import MaskStage
from facekd.distill.teachers import TorchTeacher, network_digest
from facekd.distill.views import StrongView
from facekd.engine.export import export_onnx
from facekd.engine.settings import TrainingSettings, find_recipe, parse_recipe, read_toml
from facekd.errors import ConfigError
from facekd.recognition import mask_train
from facekd.recognition.mask_networks import MASK_NETWORKS
from facekd.runtime import open_session

RECIPES = Path(__file__).resolve().parents[2] / "facekd" / "recipes"


def small(width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 3),
    )  # fmt: skip


def write(network: nn.Module, path: Path) -> Path:
    axes = {"face": {0: "faces"}, "logits": {0: "faces"}}
    export_onnx(network, torch.zeros(1, 3, 8, 8), path, inputs=["face"], outputs=["logits"], dynamic_axes=axes)
    return path


def pictures(count: int, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Noise whose brightest channel is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    crops = rng.normal(0, 0.3, (count, 3, 8, 8)).astype(np.float32)
    crops[np.arange(count), labels] += 1
    return crops, labels


class Task:
    def __init__(self, seed: int, student: nn.Module | None) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.student = student if student is not None else small()
        self.module = self.student

    def batch(self, step: int) -> dict[str, Tensor]:
        crops, labels = pictures(12, (self.seed, step))
        return {"crops": torch.from_numpy(crops), "labels": torch.from_numpy(labels)}

    def losses(self, batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
        return {"label": F.cross_entropy(self.student(batch["crops"]), batch["labels"])}

    def validate(self, student: nn.Module) -> dict[str, float]:
        return {"score": 0.5}

    def export(self, student: nn.Module, path: Path) -> None:
        write(student, path)


class Stage:
    figures = ("accuracy", "margin")
    example = np.zeros((1, 3, 8, 8), np.float32)

    def __init__(self, steps: int = 3, **training) -> None:
        self.architectures = {"small": small}
        self.judged: list[Path] = []
        self.training = TrainingSettings(steps=steps, learning_rate=0.01, validate_every=steps, warmup=0.0, **training)

    def settings(self, seed: int) -> TrainingSettings:
        return self.training.model_copy(update={"seed": seed})

    def task(self, seed: int, student: nn.Module | None) -> Task:
        return Task(seed, student)

    def teachers(self):
        return {}

    def centres(self):
        return None

    def judge(self, weights: Path) -> dict[str, float]:
        self.judged.append(weights)
        crops, labels = pictures(60, (99,))
        logits = open_session(weights.read_bytes(), threads=1).run({"face": crops})[0]
        return {"accuracy": float((logits.argmax(1) == labels).mean()), "margin": float(logits.std())}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    return write(small(8), tmp_path / "teacher.onnx")


@pytest.fixture
def table(teacher: Path) -> dict:
    return {
        "kind": "compare",
        "title": "Small things",
        "recipe": "mask-status",
        "seeds": [0, 1],
        "teachers": {
            "large": {"file": str(teacher), "architecture": "small", "options": {"width": 8}},
            "itself": {"kind": "ema", "decay": 0.9},
        },
        "methods": [
            {"name": "soft labels", "terms": [{"method": "kl", "source": "large"}]},
            {
                "name": "features, then all",
                "task_weight": {"start": 0, "end": 1, "shape": "step", "until": 0.5},
                "terms": [{"method": "mgd", "source": "large", "student": "2", "teacher": "2"}],
            },
            {
                "name": "own average, CutMix, strong view",
                "mix": {"kind": "cutmix", "share": 1.0},
                "view": {"noise": 0.01},
                "terms": [{"method": "kl", "source": "itself"}],
            },
        ],
    }


def test_every_row_has_every_seed_and_all_are_judged_by_one_judge_on_one_set(tmp_path: Path, table, teacher) -> None:
    stage, said = Stage(), []
    recipe = Comparison.model_validate(table | {"methods": table["methods"][1:2]})
    outcome = compare(recipe, stage, tmp_path / "runs", say=said.append)
    assert [row.name for row in outcome.rows] == ["features, then all"]
    assert all(len(row.figures["accuracy"]) == 2 for row in (outcome.alone, *outcome.rows))
    assert said == [f"{name}, seed {seed}" for name in ("alone", "features, then all") for seed in (0, 1)]
    # Teacher and students pass the same judge in the same call: the figures can stand in one table.
    assert len(stage.judged) == 5
    assert stage.judged[-1] == teacher
    assert outcome.teachers == {"large": stage.judge(teacher)}
    exported = open_session(outcome.rows[0].weights[0].read_bytes(), threads=1)
    assert exported.outputs == ("logits",)

    again = Stage()
    assert compare(recipe, again, tmp_path / "runs") == outcome
    assert again.judged == [teacher]  # nothing was trained or judged twice

    text = as_markdown(outcome, {})
    assert "| **student alone** |" in text
    assert "*teacher large*" in text
    data = as_data(outcome, {})
    assert json.loads(json.dumps(data))["methods"][0]["name"] == "features, then all"
    plot(outcome, tmp_path / "plot.png")
    assert cv2.imread(str(tmp_path / "plot.png")).shape[0] > 100


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


def test_what_would_not_be_comparable_is_refused(tmp_path: Path, table) -> None:
    recipe = Comparison.model_validate(table | {"seeds": [0], "methods": table["methods"][:1]})
    with pytest.raises(ConfigError, match="not minutes"):
        compare(recipe, Stage(minutes=1.0), tmp_path / "a")
    earlier = tmp_path / "runs" / "alone" / "seed-0" / "run.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text('{"key": "of another recipe"}')
    with pytest.raises(ConfigError, match="another recipe or teacher"):
        compare(recipe, Stage(), tmp_path / "runs")
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
        ({"methods": [{"name": "alone"}]}, "different names"),
        ({"methods": [{"name": "a b"}, {"name": "A-B"}]}, "different names"),
        ({"method": []}, "method"),
        ({"teachers": {"e": {"kind": "ensemble", "members": ["x", "y"]}}}, "'x' is no teacher"),
        ({"teachers": {"e": {"kind": "ensemble"}}}, "needs members"),
        ({"teachers": {"o": {"kind": "online"}}}, "needs architecture"),
        ({"teachers": {"other": {"kind": "ema"}}}, "no teacher 'large'"),
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


def test_costs_are_measured_and_the_size_is_that_of_the_file(tmp_path: Path, teacher) -> None:
    network = small(8)
    cost = measure_costs({"t": teacher}, np.zeros((1, 3, 8, 8), np.float32), {"t": network}, rounds=3)["t"]
    assert cost.parameters == 8 * 27 + 8 + 16 + 27
    assert cost.multiply_adds == 3 * 3 * 8 * 27 + 24
    assert cost.file_bytes == teacher.stat().st_size
    assert cost.file_bytes > 2 * 4 * cost.parameters  # names and graph: four bytes a parameter is not the file's size
    assert cost.median_ms > 0
    assert cost.peak_mib >= 0
    assert network.training
    only_file = measure_costs({"t": teacher}, np.zeros((1, 3, 8, 8), np.float32), rounds=1)["t"]
    assert only_file.multiply_adds is None


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Twelve crops a split in flat colours, as `mask.csv` and a zip."""
    folder = tmp_path / "mask"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    with zipfile.ZipFile(folder / "crops.zip", "w") as archive:
        for number in range(36):
            label = ("none", "mask", "incorrect")[number % 3]
            crop = rng.integers(0, 60, (112, 112, 3), dtype=np.uint8)
            crop[..., number % 3] += 150
            archive.writestr(f"{number}.png", cv2.imencode(".png", crop)[1].tobytes())
            rows.append(("crops.zip", f"{number}.png", label, ("train", "val", "test")[number // 12]))
    with (folder / "mask.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("shard", "file", "label", "split"), *rows])
    return folder


def test_the_command_compares_mask_heads_and_prints_the_table(tmp_path: Path, masks: Path, capsys) -> None:
    torch.manual_seed(0)
    options = {"widths": [24, 24, 32, 32], "blocks": [1, 1, 1, 1]}
    large = tmp_path / "large.onnx"
    axes = {"face": {0: "faces"}, "logits": {0: "faces"}}
    network = MASK_NETWORKS["resnet"](**options)
    export_onnx(network, torch.zeros(1, 3, 112, 112), large, inputs=["face"], outputs=["logits"], dynamic_axes=axes)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        f"""
        kind = "compare"
        title = "Tiny"
        recipe = "mask-status"
        set = ["training.steps=2", "training.validate_every=2", "data.batch=6", "network.widths=[16, 16, 16]"]
        seeds = [0]
        [teachers.large]
        file = "missing.onnx"
        architecture = "resnet"
        options = {{ widths = {options["widths"]}, blocks = {options["blocks"]} }}
        [[methods]]
        name = "kl and attention"
        terms = [
            {{ method = "kl", options = {{ temperature = 2.0 }}, sample_weights = "correctness" }},
            {{ method = "attention", student = "body.2", teacher = "body.2", weight = 0.5 }},
        ]
        """,
        encoding="utf-8",
    )
    out = tmp_path / "out"
    words = ["distill", "compare", str(recipe), "--data", str(masks), "--out", str(out), "--threads", "1", "--json"]
    assert run(words) == 2
    assert "pass --teacher large=FILE" in capsys.readouterr().err
    assert run([*words, "--teacher", f"large={large}"]) == 0
    answer = json.loads(capsys.readouterr().out)["comparisons"][0]
    assert answer["figures"][0] == "accuracy"
    assert len(answer["methods"][0]["figures"]["accuracy"]) == 1
    assert answer["costs"]["teacher large"]["file_bytes"] == large.stat().st_size
    assert answer["costs"]["student"]["parameters"] < answer["costs"]["teacher large"]["parameters"]
    assert (out / "tiny" / "comparison.png").is_file()
    assert "| kl and attention |" in (out / "tiny" / "table.md").read_text()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("compare-*.toml")), ids=lambda path: path.stem)
def test_packaged_comparisons_are_valid_and_within_their_recipes(path: Path) -> None:
    recipe = parse_recipe(Comparison, read_toml(path), path)
    assert len(recipe.seeds) >= 3
    shared = find_recipe(recipe.recipe)
    table = read_toml(shared, recipe.set)
    parse_recipe(importlib.import_module(stage_of(table, shared)).Recipe, table, shared)
    assert table["training"].get("minutes") is None


def test_every_method_of_the_packaged_mask_comparison_teaches(masks: Path) -> None:
    path = RECIPES / "compare-mask.toml"
    recipe = parse_recipe(Comparison, read_toml(path), path)
    table = read_toml(find_recipe(recipe.recipe), [*recipe.set, "data.batch=4"])
    table["data"]["folders"] = [str(masks)]
    stage = MaskStage(table, path)
    torch.manual_seed(0)
    teachers = {"large": TorchTeacher(MASK_NETWORKS["resnet"](widths=(16, 16, 24, 24), blocks=(1, 1, 1, 1)))}
    for entry in recipe.methods:
        task = make_task(recipe, entry, stage, teachers, 0)
        terms = task.losses(task.batch(1), 1, 0.35)
        assert any(name.startswith("distill/") for name in terms), entry.name
        sum(terms.values()).backward()
        assert torch.isfinite(task.student.stem[0].weight.grad).all(), entry.name


def test_a_recipe_of_the_mask_head_distils_by_itself(masks: Path, tmp_path: Path) -> None:
    network = MASK_NETWORKS["resnet"](widths=(16, 16, 24, 24), blocks=(1, 1, 1, 1))
    axes = {"face": {0: "faces"}, "logits": {0: "faces"}}
    large = tmp_path / "large.onnx"
    export_onnx(network, torch.zeros(1, 3, 112, 112), large, inputs=["face"], outputs=["logits"], dynamic_axes=axes)
    table = {
        "kind": "mask",
        "training": {"steps": 1, "learning_rate": 0.1},
        "network": {"architecture": "shufflenet_v2", "options": {"widths": [8, 8, 16, 16, 16]}},
        "data": {"folders": [str(masks)], "batch": 3},
        "distill": {"teachers": {"large": {"file": str(large)}}, "terms": [{"method": "kl"}]},
    }
    task = mask_train.build_task(parse_recipe(mask_train.Recipe, table))
    assert set(task.losses(task.batch(0), 0, 0.0)) == {"label", "distill/kl"}
    assert type(task.student).__name__ == "ShuffleNetV2Mask"
    plain = mask_train.build_task(parse_recipe(mask_train.Recipe, {k: v for k, v in table.items() if k != "distill"}))
    assert isinstance(plain, mask_train.MaskTask)


def test_a_detector_learns_from_an_exported_one(tmp_path: Path) -> None:
    class Batch(NamedTuple):
        pictures: Tensor

    class Detection:
        def __init__(self) -> None:
            torch.manual_seed(0)
            self.student = self.module = RetinaFace()

        def batch(self, step: int) -> Batch:
            return Batch(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(step)))

        def losses(self, batch: Batch, step: int, progress: float) -> dict[str, Tensor]:
            return {"score": self.student(batch.pictures).logits.square().mean()}

    torch.manual_seed(1)
    path = tmp_path / "detector.onnx"
    detection_train.export_detector(RetinaFace(), path)
    outputs = [f"output:{name}" for name in ("scores", "boxes", "landmarks")]
    settings = DistillSettings.model_validate(
        {
            "teachers": {"large": {"file": str(path)}},
            "terms": [
                {
                    "method": "detection",
                    "student": ["output:0", "output:1", "output:2"],
                    "teacher": outputs,
                    "options": {"giou_weight": 1.0, "foreground": 0.04, "background": 0.03},
                }
            ],
        }
    )
    task = distil(Detection(), settings, {}, extras=detection_train._anchors_of)
    terms = task.losses(task.batch(0), 0, 0.0)
    assert terms["distill/detection"].item() > 0
    terms["distill/detection"].backward()
    assert any(p.grad is not None and p.grad.any() for p in task.student.parameters())
    assert distil(task, DistillSettings(), {}) is task
    with pytest.raises(ConfigError, match="view and mix need batches"):
        distil(Detection(), settings.model_copy(update={"view": StrongView()}), {})


def test_a_mask_stage_takes_other_students_and_refuses_other_folders(masks: Path, tmp_path: Path) -> None:
    table = {
        "kind": "mask",
        "training": {"steps": 1, "learning_rate": 0.1},
        "data": {"folders": [str(masks)], "batch": 3},
    }
    stage = MaskStage(table, tmp_path)
    task = stage.task(0, MASK_NETWORKS["shufflenet_v2"](widths=(8, 8, 16, 16, 16)))
    assert task.losses(task.batch(0), 0, 0.0)["label"].requires_grad
    with pytest.raises(ConfigError, match="--data DIR"):
        MaskStage(table | {"data": {}}, tmp_path)
