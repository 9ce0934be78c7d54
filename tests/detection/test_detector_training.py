"""The detector's training from recipe to ONNX file, on pictures drawn here."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from facekd.cli import run  # noqa: E402
from facekd.detection.anchors import anchors  # noqa: E402
from facekd.detection.codec import decode_boxes  # noqa: E402
from facekd.detection.network import NetworkSettings, Predictions, RetinaFace  # noqa: E402
from facekd.detection.train import (  # noqa: E402
    DetectorData,
    DetectorTask,
    Recipe,
    build_task,
    closing_remark,
    detect,
    export_detector,
    normalise,
)
from facekd.distill.local import LocalAlignmentLoss  # noqa: E402
from facekd.engine.loop import fit  # noqa: E402
from facekd.engine.settings import find_recipe, parse_recipe, read_toml  # noqa: E402
from facekd.errors import ConfigError, DataError  # noqa: E402
from facekd.evaluation.detection import detection_figures  # noqa: E402
from facekd.zoo import Preprocessing, load_manifest  # noqa: E402

SIDE = 96


def draw_face(picture: np.ndarray, x: int, y: int, side: int) -> str:
    """A drawn face; returns its label."""
    centre = (x + side // 2, y + side // 2)
    cv2.ellipse(picture, centre, (side * 2 // 5, side // 2), 0, 0, 360, (225, 180, 150), -1)
    points = [(x + side * a // 100, y + side * b // 100) for a, b in ((33, 38), (67, 38), (50, 55), (37, 75), (63, 75))]
    for point in points[:2]:
        cv2.circle(picture, point, max(side // 12, 1), (30, 30, 60), -1)
    cv2.line(picture, points[3], points[4], (150, 40, 40), max(side // 14, 1))
    marks = " ".join(f"{px} {py} 0.0" for px, py in points)
    return f"{x + side // 10} {y} {side * 4 // 5} {side} {marks} 1\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two photographs with three faces, as a collection to train on and to validate with."""
    rng = np.random.default_rng(0)
    pictures, lines = [], []
    for name, faces in (("a.png", [(20, 16, 44)]), ("b.png", [(4, 8, 30), (54, 50, 36)])):
        noise = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
        picture = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        lines.append(f"# {name} {SIDE} {SIDE}\n" + "".join(draw_face(picture, *face) for face in faces))
        pictures.append((name, picture))
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for name, picture in pictures:
            archive.writestr(name, cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    (tmp_path / "train.txt").write_text("".join(lines))
    return tmp_path


def make_recipe(folder: Path, **extra: Any) -> Recipe:
    nothing = {"light": 0, "saturation": 0, "grey": 0, "blur": 0, "noise": 0, "compression": 0, "mask": 0, "cover": 0}
    table = {
        "kind": "detector",
        "preprocessing": {"mean": [127.5] * 3, "scale": [0.0078125] * 3, "width": 0, "height": 0, "multiple": 32},
        "data": {
            "folders": [str(folder)],
            "sources": [{"photographs": "train.zip", "labels": "train.txt"}],
            "validation": {"photographs": "train.zip", "labels": "train.txt"},
        },
        "phases": [{"size": 64, "batch": 4, "steps": 2}, {"size": SIDE, "batch": 4, "steps": 10}],
        "network": {"backbone": {"stem": 8, "widths": [16, 24, 32], "middles": [8, 16, 16]}, "channels": 32},
        "crops": {"around_face": 0, "zoom_out": 0, "mosaic": 0, "largest_zoom": 1.0},
        "changes": nothing,
        "training": {
            "steps": 80,
            "learning_rate": 6e-3,
            "ema_decay": 0.9,
            "weight_decay": 0.0,
            "validate_every": 40,
            "threads": 1,
        },
    }
    return parse_recipe(Recipe, {**table, **extra})


def test_two_pictures_are_learnt_by_heart(data: Path, tmp_path: Path) -> None:
    task = build_task(make_recipe(data), say=lambda _: None)
    outcome = fit(task, task.recipe.training, tmp_path / "run")
    assert np.mean(outcome.losses[-10:]) < 0.2 * np.mean(outcome.losses[:3])
    assert outcome.best_score == pytest.approx(1.0)
    # The exported file, read back, is as good as what was validated.
    again = build_task(
        make_recipe(data, network={**task.recipe.network.model_dump(), "init": str(outcome.best_path)}),
        say=lambda _: None,
    )
    assert again.validate(again.student.eval())["score"] == pytest.approx(1.0)


def test_a_batch_depends_on_its_step_and_the_seed_only(data: Path) -> None:
    one, two = (build_task(make_recipe(data), say=lambda _: None) for _ in range(2))
    late, early = one.batch(7), one.batch(0)
    assert early.pictures.shape == (4, 64, 64, 3)
    assert late.pictures.shape == (4, SIDE, SIDE, 3)
    for first, second in zip(late, two.batch(7), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(late.pictures, one.batch(8).pictures)


def test_a_batch_brings_its_faces_in_pixels_and_they_are_those_of_its_codes(data: Path) -> None:
    task = DetectorTask(*_recipe_and_data(data))
    batch = task.batch(7)
    extras = task.extras(normalise(batch.pictures, task.recipe.preprocessing), batch)
    assert set(extras) == {"anchors", "boxes", "landmarks", "photographs"}
    pictures, squares = batch.positives.numpy().T
    boxes = decode_boxes(batch.boxes.numpy(), extras["anchors"].numpy()[squares])
    assert len(extras["boxes"]) == len(extras["landmarks"]) == len(extras["photographs"]) > 2
    seen = set()
    for picture, box in zip(pictures, boxes, strict=True):
        own = np.flatnonzero(extras["photographs"].numpy() == picture)
        distance = np.abs(extras["boxes"].numpy()[own] - box).max(axis=1)
        assert distance.min() < 0.01
        seen.add(int(own[distance.argmin()]))
    assert seen == set(range(len(extras["boxes"])))
    inside = (extras["landmarks"] > extras["boxes"][:, None, :2]) & (extras["landmarks"] < extras["boxes"][:, None, 2:])
    assert inside.float().mean() > 0.9


def test_a_larger_retinaface_teaches_answers_pyramid_and_patches_for_some_steps(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"resnet": [1, 1, 1, 1], "resnet_width": 8, "channels": 48, "smooth": True}
    torch.manual_seed(1)
    large = RetinaFace(NetworkSettings.model_validate(options))
    for head in large.heads:
        torch.nn.init.normal_(head.weight, std=0.5)  # an untrained teacher is sure of nothing
    export_detector(large, tmp_path / "large.onnx")
    answers = ["output:0", "output:1", "output:2"]
    terms = [
        {"method": "detection", "student": answers, "teacher": answers, "options": {"giou_weight": 1.0}},
        *(
            {
                "method": name,
                "student": [f"pyramid:{i}" for i in range(3)],
                "teacher": [f"network.pyramid:{i}" for i in range(3)],
            }
            for name in ("pkd", "channel-pyramid")
        ),
        {"method": "local", "student": "pyramid:0", "teacher": "network.pyramid:0", "options": {"stride": 8.0}},
    ]
    teacher = {"file": str(tmp_path / "large.onnx"), "architecture": "retinaface", "options": options}
    given = []
    plain = LocalAlignmentLoss.forward
    monkeypatch.setattr(
        LocalAlignmentLoss, "forward", lambda self, *a, **named: given.append(named) or plain(self, *a, **named)
    )
    settings = make_recipe(data, distill={"teachers": {"large": teacher}, "terms": terms})
    task = build_task(settings, say=lambda _: None)
    batch = task.batch(3)
    found = task.losses(batch, 3, 0.0)
    assert set(found) == {"score", "box", "landmarks", *(f"distill/{term['method']}" for term in terms)}
    assert torch.equal(given[-1]["boxes"], batch.faces)
    assert torch.equal(given[-1]["photographs"], batch.face_pictures)
    assert torch.equal(given[-1]["landmarks"].nan_to_num(), batch.face_landmarks.nan_to_num())
    short = settings.training.model_copy(update={"steps": 3, "validate_every": 3})
    outcome = fit(task, short, tmp_path / "run")
    assert all(np.isfinite(outcome.losses))
    names = {item.name for item in onnx.load(outcome.best_path).graph.initializer}
    assert names
    assert not any("adapters" in name or "distiller" in name for name in names)


def test_weights_to_start_from_may_be_a_model_of_the_zoo(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("facekd.detection.train.load_onnx_weights", lambda network, path: asked.append(path))
    settings = make_recipe(data, network={"init": "retinaface-mobile"})
    build_task(settings, say=lambda _: None)
    assert asked == [load_manifest().models["retinaface-mobile"].path]
    with pytest.raises(ConfigError, match="retinaface-small"):
        build_task(make_recipe(data, network={"init": "retinaface-small"}), say=lambda _: None)


def _recipe_and_data(folder: Path) -> tuple[Recipe, DetectorData]:
    settings = make_recipe(folder)
    return settings, DetectorData.load(settings.data, lambda _: None)


def test_pixels_reach_the_network_as_the_manifest_says() -> None:
    preprocessing = Preprocessing(mean=(120, 110, 100), scale=(0.01, 0.02, 0.03), width=0, height=0, multiple=32)
    batch = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3)).astype(np.uint8)
    ours = normalise(torch.from_numpy(batch), preprocessing)
    np.testing.assert_allclose(ours.numpy(), preprocessing.apply(batch), atol=1e-6)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_detection_in_training_finds_what_the_codes_say(data: Path) -> None:
    """A stand-in network that answers with the targets themselves must be judged perfect, at odd sizes too."""
    from facekd.detection.data.targets import make_targets
    from facekd.detection.labels import LabelledPhotograph

    box = np.array([[10, 12, 40, 50], [70, 60, 90, 88]], np.float32)
    points, flags = np.full((2, 5, 2), np.nan, np.float32), np.zeros(2, bool)
    targets = make_targets(96, box, points, flags, np.ones(2, np.float32))

    def network(pictures: torch.Tensor) -> Predictions:
        assert pictures.shape == (1, 3, 96, 96)
        logits = torch.where(torch.from_numpy(targets.labels == 1), 5.0, -9.0)
        boxes = torch.zeros(len(logits), 4)
        boxes[targets.positives] = torch.from_numpy(targets.boxes)
        return Predictions(logits[None], boxes[None], torch.zeros(1, len(logits), 10))

    found = detect(network, np.zeros((90, 95, 3), np.uint8), make_recipe(data))
    label = LabelledPhotograph("a", 95, 90, box, points, flags)
    assert len(found.scores) == 2
    assert detection_figures([label], [found])["ap"] == pytest.approx(1.0)


class ElsewhereNetwork(torch.nn.Module):
    """Its weights lie on another device, and it notes where its pictures come from; its answers find nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, device="meta"))
        self.seen: list[str] = []

    def forward(self, pictures: torch.Tensor) -> Predictions:
        self.seen.append(pictures.device.type)
        squares = len(anchors(pictures.shape[2], pictures.shape[3]))
        return Predictions(torch.full((1, squares), -9.0), torch.zeros(1, squares, 4), torch.zeros(1, squares, 10))


def test_validation_takes_the_photographs_to_where_the_network_is(data: Path) -> None:
    network = ElsewhereNetwork()
    assert DetectorTask(*_recipe_and_data(data)).validate(network)["score"] == 0.0
    assert network.seen == ["meta"] * 2


def test_validation_photographs_without_a_face_are_refused(data: Path) -> None:
    (data / "empty.txt").write_text(f"# a.png {SIDE} {SIDE}\n# b.png {SIDE} {SIDE}\n")
    sources = [{"photographs": "train.zip", "labels": "train.txt"}]
    validation = {"photographs": "train.zip", "labels": "empty.txt"}
    settings = make_recipe(data, data={"folders": [str(data)], "sources": sources, "validation": validation})
    with pytest.raises(DataError, match=r"no photograph of empty\.txt has a labelled face"):
        build_task(settings, say=lambda _: None)


@pytest.mark.parametrize("changed", [{"optional": True, "photographs": "other.zip"}, {"hold_out_every": 1}])
def test_nothing_to_train_on_is_an_error_before_the_first_batch(data: Path, changed: dict[str, Any]) -> None:
    validation = {"photographs": "train.zip", "labels": "train.txt"}
    settings = make_recipe(
        data, data={"folders": [str(data)], "sources": [validation | changed], "validation": validation}
    )
    with pytest.raises(DataError, match="no photograph to train on"):
        build_task(settings, say=lambda _: None)


def test_a_run_that_ends_before_its_last_phase_says_so(data: Path) -> None:
    """Its phases: two steps of 64 px, then 96 px."""
    said: list[str] = []
    training = {"learning_rate": 1e-3, "minutes": 1.0}
    build_task(make_recipe(data, training=training | {"steps": 2}), said.append)
    assert any("last phase, which begins at step 2: no crop has 96 px" in line for line in said)
    settings = make_recipe(data, training=training | {"steps": 3})
    said.clear()
    build_task(settings, said.append)
    assert not any("phase" in line for line in said)
    assert "1 steps end before the last phase" in closing_remark(settings, 1)  # the minutes were over
    assert closing_remark(settings, 3) == ""


def test_the_command_says_when_the_minutes_were_over_before_the_last_phase(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = '{photographs = "train.zip", labels = "train.txt"}'
    changes = [
        f"data.sources=[{split}]",
        f"data.validation={split}",
        "phases=[{size = 64, batch = 1, steps = 5000}, {size = 96, batch = 1, steps = 1}]",
        "network={backbone = {stem = 8, widths = [16, 24, 32], middles = [8, 16, 16]}, channels = 32}",
        "training.steps=9000",
    ]
    words = ["train", "detector-mobile", "--data", str(data), "--run", str(tmp_path / "run"), "--minutes", "0.01"]
    assert run([*words, "--threads", "1", *(word for change in changes for word in ("--set", change))]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "steps end before the last phase, which begins at step 5000: no crop has 96 px" in said


@pytest.mark.parametrize("name", ["detector-mobile", "detector-distilled", "detector-student", "detector-teacher"])
def test_the_packaged_recipes_are_valid_and_prepare_pixels_like_the_shipped_model(name: str) -> None:
    path = find_recipe(name)
    recipe = parse_recipe(Recipe, read_toml(path), path)
    assert recipe.preprocessing == load_manifest().models["retinaface-mobile"].preprocessing


def test_a_misspelt_key_and_missing_data_are_explained(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"mosaik.*mosaic"):
        make_recipe(data, crops={"mosaik": 0.1})
    with pytest.raises(DataError, match=r"other\.zip.*--data"):
        build_task(
            make_recipe(
                data,
                data={
                    "folders": [str(data)],
                    "sources": [{"photographs": "other.zip", "labels": "train.txt"}],
                    "validation": {"photographs": "train.zip", "labels": "train.txt"},
                },
            )
        )


def test_the_research_photographs_can_be_trained_on(shared_data: Path) -> None:
    """The packaged recipe finds everything that it needs below ../shared/data; WIDER's photographs stay optional."""
    table = read_toml(find_recipe("detector-mobile"), ["training.steps=1"])
    for source in table["data"]["sources"]:
        assert (shared_data / source["labels"]).is_file()
    required = [source for source in table["data"]["sources"] if not source.get("optional")]
    assert all((shared_data / source["photographs"]).is_file() for source in required)
