"""The comparison's stages: mask heads by the command, packaged recipes, and detectors that learn from a file."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
import zipfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from facekd.cli import run
from facekd.cli.distill import _command
from facekd.cli.train import stage_of
from facekd.detection import train as detection_train
from facekd.detection.anchors import anchors
from facekd.detection.network import RetinaFace
from facekd.distill.compare import make_task
from facekd.distill.comparison import Comparison
from facekd.distill.methods import METHODS, method_options
from facekd.distill.opening import build_network, distil
from facekd.distill.settings import DistillSettings
from facekd.distill.stages import MaskStage
from facekd.distill.teachers import TorchTeacher
from facekd.distill.views import StrongView
from facekd.engine.export import export_onnx
from facekd.engine.settings import find_recipe, parse_recipe, read_toml
from facekd.errors import ConfigError
from facekd.recognition import mask_train
from facekd.recognition.mask_networks import MASK_NETWORKS

RECIPES = Path(__file__).resolve().parents[2] / "facekd" / "recipes"


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
    weights = out / "tiny" / "alone" / "seed-0" / "best.onnx"
    made = weights.stat().st_mtime_ns
    page = tmp_path / "page.md"
    again = [*words, "--teacher", f"large={large}", "--report-only", "--markdown", str(page), "--set", "data.batch=6"]
    assert run(again) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"][0]["missing"] == {}
    assert weights.stat().st_mtime_ns == made
    assert "facekd distill compare tiny --data DATA --teacher large=LARGE.onnx --set data.batch=6" in page.read_text()
    assert str(tmp_path) not in page.read_text()
    assert run([*again, "--set", "data.batch=7"]) == 2  # those runs saw other batches
    assert "holds a run of another recipe" in capsys.readouterr().err


def test_a_page_names_no_folder_of_this_machine() -> None:
    recipe = parse_recipe(Comparison, read_toml(RECIPES / "compare-mask.toml"))
    words = _command("compare-mask", recipe, ['data.faces=["/home/me/faces"]', "network.init=/a/b.onnx", "x=1"], True)
    assert "--set 'data.faces=[\"faces\"]' --set network.init=b.onnx --set x=1" in words
    assert "--lfw LFW" in words


def test_methods_are_listed_with_their_options(capsys) -> None:
    assert run(["distill", "methods", "--json"]) == 0
    listed = {item["name"]: item for item in json.loads(capsys.readouterr().out)["methods"]}
    assert set(listed) == set(METHODS)
    assert listed["mgd"]["options"] == method_options(METHODS["mgd"])
    assert listed["local"]["needs"] == ["boxes", "photographs"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("compare-*.toml")), ids=lambda path: path.stem)
def test_packaged_comparisons_are_valid_and_within_their_recipes(path: Path) -> None:
    recipe = parse_recipe(Comparison, read_toml(path), path)
    assert len(recipe.seeds) >= (2 if path.stem == "compare-detector" else 3)  # it says so
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
    large = recipe.teachers["large"]
    teachers = {"large": TorchTeacher(build_network(MASK_NETWORKS, large.architecture, large.options))}
    for entry in recipe.methods:
        task = make_task(recipe, entry, stage, teachers, 0)
        terms = task.losses(task.batch(1), 1, 0.35)
        assert any(name.startswith("distill/") for name in terms), entry.name
        sum(terms.values()).backward()
        assert torch.isfinite(task.student.stem[0].weight.grad).all(), entry.name


def test_a_seed_beside_those_of_the_comparison_is_refused_before_the_data_are_read(tmp_path: Path, capsys) -> None:
    words = ["distill", "compare", "compare-mask", "--data", str(tmp_path), "--set", "training.seed=5"]
    assert run([*words, "--out", str(tmp_path / "runs")]) == ConfigError.exit_code
    assert "training.seed has no effect here" in " ".join(capsys.readouterr().err.split())


def test_a_value_where_the_commands_need_a_section_is_explained(tmp_path: Path, capsys) -> None:
    assert run(["train", "mask-status", "--set", "network=5", "--init", "x.onnx"]) == ConfigError.exit_code
    assert "'network' is a value in this recipe" in " ".join(capsys.readouterr().err.split())
    assert run(["distill", "compare", "compare-mask", "--set", "data=5"]) == ConfigError.exit_code
    assert "'data' is a value in this recipe" in " ".join(capsys.readouterr().err.split())


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


def test_the_pages_commands_teach_through_an_assistant(masks: Path, tmp_path: Path, monkeypatch) -> None:
    large = tmp_path / "large.onnx"
    axes = {"face": {0: "faces"}, "logits": {0: "faces"}}
    network = MASK_NETWORKS["mask_network"](widths=(16, 16, 16))
    export_onnx(network, torch.zeros(1, 3, 112, 112), large, inputs=["face"], outputs=["logits"], dynamic_axes=axes)
    page = (RECIPES.parents[1] / "docs" / "distillation.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^facekd (train .*)$", page.split("### Through an assistant")[1], re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    small = ["--threads", "1", "--set", "training.steps=1", "--set", "training.validate_every=1"]
    small += ["--set", "data.batch=4", "--set", "network.widths=[16, 16, 16]"]
    teacher = [f'distill.teachers.large={{ file = "{large}", architecture = "mask_network" }}']
    teacher += ["distill.teachers.large.options={ widths = [16, 16, 16] }"]
    teacher += ['distill.terms=[{ method = "pkd", student = ["body.1", "body.2"], teacher = ["body.1", "body.2"] }]']
    words = [str(masks) if word == "MASK" else word for word in shlex.split(first)]
    assert run([*words, *small, *(word for item in teacher for word in ("--set", item))]) == 0
    assistant = tmp_path / "runs" / "assistant" / "best.onnx"
    content = assistant.read_bytes()
    words = [str(masks) if word == "MASK" else word for word in shlex.split(second)]
    assert run([*words, *small]) == 0
    assert "loss/distill/kl" in (tmp_path / "runs" / "student" / "history.csv").read_text()
    assert assistant.read_bytes() == content


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

        def extras(self, pictures: Tensor, batch: Batch) -> dict[str, Tensor]:
            return {"anchors": torch.from_numpy(anchors(*pictures.shape[2:]).copy())}

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
    task = distil(Detection(), settings, {})
    terms = task.losses(task.batch(0), 0, 0.0)
    assert terms["distill/detection"].item() > 0
    terms["distill/detection"].backward()
    assert any(p.grad is not None and p.grad.any() for p in task.student.parameters())
    assert distil(task, DistillSettings(), {}) is task
    with pytest.raises(ConfigError, match="view and mix need batches"):
        distil(Detection(), settings.model_copy(update={"view": StrongView()}), {})


def test_a_mask_stages_data_are_its_pixels_and_labels(masks: Path, tmp_path: Path) -> None:
    def digest() -> str:
        data = {"folders": [str(masks)], "batch": 3}
        training = {"steps": 1, "learning_rate": 0.1}
        return MaskStage({"kind": "mask", "training": training, "data": data}, tmp_path).data_digest()

    first = digest()
    assert digest() == first
    table, crops = masks / "mask.csv", masks / "crops.zip"
    with zipfile.ZipFile(crops) as archive:
        pictures = {name: archive.read(name) for name in archive.namelist()}
    pictures["0.png"], pictures["3.png"] = pictures["3.png"], pictures["0.png"]  # both in train, of the same size
    with zipfile.ZipFile(crops, "w") as archive:
        for name, content in pictures.items():
            archive.writestr(name, content)
    second = digest()
    assert second != first
    table.write_text(table.read_text().replace("30.png,none", "30.png,mask"))  # of test
    assert digest() not in (first, second)


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
    set_up = MaskStage(table | {"network": {"dropout": 0.0}}, tmp_path)
    with pytest.raises(ConfigError, match=r"leave \[student\] out and set network\.architecture"):
        set_up.task(0, MASK_NETWORKS["mask_network"]())
