"""The comparison on detectors: every method of the packaged recipes teaches, and one judge for ours and for YuNet."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facekd.detection.evaluate import look
from facekd.distill import detector_stage
from facekd.distill.compare import make_task, open_teachers
from facekd.distill.comparison import Comparison, Entry
from facekd.distill.detector_stage import DetectorStage
from facekd.distill.stages import open_stage
from facekd.distill.teachers import TorchTeacher
from facekd.engine.settings import find_recipe, parse_recipe, read_toml
from facekd.errors import ConfigError, DataError

SMALL = [
    'data.sources=[{ photographs = "detection/train.zip", labels = "detection/train.txt" }]',
    "phases=[{ size = 64, batch = 2, steps = 1 }]",
    "network.backbone={ stem = 8, widths = [8, 16, 16], middles = [8, 8, 8] }",
    "network.channels=16",
    "crops.mosaic=0.0",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two black photographs in each split; a bright blue cell is a face of 64 pixels (see `yunet_bytes`)."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "detection"
    folder.mkdir()
    for split in ("train", "val", "test"):
        lines = []
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            for number, (row, column) in enumerate(((2, 2), (4, 3))):
                picture = np.zeros((128, 160, 3), np.uint8)
                picture[16 * row : 16 * row + 16, 16 * column : 16 * column + 16, 0] = 255  # blue: OpenCV writes BGR
                archive.writestr(f"{number}.png", cv2.imencode(".png", picture)[1].tobytes())
                points = " ".join(
                    f"{16 * (column + x)} {16 * (row + y)} 0.0"
                    for x, y in ((0.1, 0.2), (0.9, 0.2), (0.5, 0.5), (0.2, 0.8), (0.8, 0.8))
                )
                box = f"{16 * column - 24} {16 * row - 24} 64 64"
                lines.append(f"# {number}.png 160 128\n{box} {points} 1\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    return root


def load(name: str, data: Path, *more: str) -> tuple[Comparison, DetectorStage]:
    path = find_recipe(name)
    recipe = parse_recipe(Comparison, read_toml(path), path)
    kept = [item for item in recipe.set if not item.startswith(("network.init", "phases"))]
    table = read_toml(find_recipe(recipe.recipe), [*kept, *SMALL, *more])
    table["data"]["folders"] = [str(data)]
    stage = open_stage(table, path)
    assert isinstance(stage, DetectorStage)
    return recipe, stage


def test_yunet_teaches_and_is_judged_with_the_students(data: Path, tmp_path: Path, yunet_bytes: bytes) -> None:
    recipe, stage = load("compare-detector", data)
    file = tmp_path / "yunet.onnx"
    file.write_bytes(yunet_bytes)
    teachers, judged = open_teachers(recipe, stage, {"yunet": file})
    assert judged == {"yunet": file}
    alone = make_task(recipe, Entry(name="alone"), stage, teachers, 0)
    assert set(alone.losses(alone.batch(0), 0, 0.5)) == {"score", "box", "landmarks"}
    for entry in recipe.methods:
        task = make_task(recipe, entry, stage, teachers, 0)
        terms = task.losses(task.batch(0), 0, 0.5)
        assert {f"distill/{term.label}" for term in entry.terms} <= set(terms)
        assert terms["distill/detection"] > 0
        sum(terms.values()).backward()
        assert torch.isfinite(task.student.backbone.stem[0].weight.grad).all()
    figures = stage.judge(file)
    assert tuple(figures) == stage.figures == ("ap", "recall_fppi_0.1", "recall_p90")
    assert figures["ap"] == pytest.approx(1.0)
    task.export(task.student, tmp_path / "student.onnx")
    assert 0.0 <= stage.judge(tmp_path / "student.onnx")["ap"] < 0.5  # untrained


def test_a_detector_is_judged_with_the_overlap_that_its_recipe_names(
    data: Path, tmp_path: Path, yunet_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = load("compare-detector", data, "data.test.nms_iou=0.7")[1]
    student, yunet = tmp_path / "student.onnx", tmp_path / "yunet.onnx"
    task = stage.task(0, None)
    task.export(task.student, student)
    yunet.write_bytes(yunet_bytes)
    overlaps: list[float] = []
    monkeypatch.setattr(
        detector_stage,
        "look",
        lambda detector, *rest, **more: overlaps.append(detector.nms_iou) or look(detector, *rest, **more),
    )
    for weights in (student, yunet):
        stage.judge(weights)
    assert overlaps == [0.7, 0.3]  # YuNet's is its users'


def test_every_method_of_the_features_comparison_teaches(data: Path) -> None:
    recipe, stage = load("compare-detector-features", data)
    torch.manual_seed(0)
    large = stage.architectures["retinaface"](resnet=(1, 1, 1, 1), resnet_width=4, channels=24)
    for entry in recipe.methods:
        task = make_task(recipe, entry, stage, {"large": TorchTeacher(large)}, 0)
        terms = task.losses(task.batch(1), 1, 0.5)
        assert {"score", "box", "landmarks", *(f"distill/{term.label}" for term in entry.terms)} == set(terms)
        sum(terms.values()).backward()
        assert torch.isfinite(task.student.backbone.stem[0].weight.grad).all(), entry.name
    pyramid = task.distiller.adapters[1]
    assert [tuple(adapter.map.weight.shape) for adapter in pyramid] == [(24, 16, 1, 1)] * 3


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_other_labels_are_other_data(data: Path, tmp_path: Path, split: str) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    first = load("compare-detector", folder)[1].data_digest()
    assert first == load("compare-detector", data)[1].data_digest()
    labels = folder / "detection" / f"{split}.txt"
    labels.write_text(labels.read_text().replace(" 64 64 ", " 64 63 ", 1))
    assert load("compare-detector", folder)[1].data_digest() != first


def test_what_cannot_be_compared_is_refused(data: Path) -> None:
    stage = load("compare-detector", data)[1]
    with pytest.raises(ConfigError, match=r"network\.…"):
        stage.task(0, torch.nn.Identity())
    table = read_toml(find_recipe("detector-mobile"), SMALL)
    table["data"]["folders"] = [str(data)]
    del table["data"]["test"]
    with pytest.raises(ConfigError, match=r"no \[data.test\]"):
        open_stage(table, Path("x.toml"))
    table["data"]["test"] = {"photographs": "none.zip", "labels": "detection/test.txt"}
    with pytest.raises(DataError, match=r"none\.zip"):
        open_stage(table, Path("x.toml"))
