"""The refiner's training: patches show what they say, labels move with the pixels, a run ends in a model that runs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from facekd.detection.data.changes import ChangeSettings  # noqa: E402
from facekd.detection.data.patches import (  # noqa: E402
    PATCH_EYES_PX,
    PATCH_PX,
    Patches,
    SquareSettings,
    cut_patches,
    draw_square,
)
from facekd.detection.detector import Detection  # noqa: E402
from facekd.detection.labels import LabelledPhotograph  # noqa: E402
from facekd.detection.network.refiner import ExportedRefiner, RefinerNetwork  # noqa: E402
from facekd.detection.refine_train import (  # noqa: E402
    Recipe,
    RefinerTask,
    build_task,
    judged_squares,
    make_batch,
)
from facekd.detection.refiner import EYES_PX, SIDE_PX, TEMPLATE, Refiner, decode_points  # noqa: E402
from facekd.engine.export import load_onnx_weights  # noqa: E402
from facekd.engine.loop import fit  # noqa: E402
from facekd.engine.settings import find_recipe, parse_recipe, read_toml  # noqa: E402
from facekd.errors import ConfigError, DataError  # noqa: E402
from facekd.zoo import ModelCard, find_model  # noqa: E402
from facekd.zoo.writing import write_record  # noqa: E402
from tests.detection.made_landmarks import landmarks_at  # noqa: E402

COLOURS = ((250, 30, 30), (30, 250, 30), (30, 30, 250), (250, 250, 30), (30, 250, 250))
PATCH_TEMPLATE = (TEMPLATE - SIDE_PX / 2) * (PATCH_EYES_PX / EYES_PX) + PATCH_PX / 2
NOTHING = ChangeSettings(**dict.fromkeys(ChangeSettings.model_fields, 0.0))


def box_of(points: np.ndarray) -> np.ndarray:
    eyes = np.linalg.norm(points[1] - points[0])
    centre = points.mean(0)
    return np.array([*(centre - 1.3 * eyes), *(centre + 1.3 * eyes)], np.float32)


def photograph(*faces: np.ndarray, ignored: tuple[np.ndarray, ...] = ()) -> tuple[np.ndarray, LabelledPhotograph]:
    """Grey, with a dot of its own colour at each landmark; and its labels."""
    pixels = np.full((300, 400, 3), 120, np.uint8)
    for points in faces:
        for (x, y), colour in zip(points, COLOURS, strict=True):
            cv2.circle(pixels, (round(float(x)), round(float(y))), 3, colour, -1)
    boxes = [box_of(points) for points in faces] + list(ignored)
    label = LabelledPhotograph(
        "a.png",
        400,
        300,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([*faces, *(np.full((5, 2), np.nan) for _ in ignored)], np.float32).reshape(-1, 5, 2),
        np.array([False] * len(faces) + [True] * len(ignored), bool),
    )
    return pixels, label


def dots(pixels: np.ndarray) -> np.ndarray:
    """Where the dot of each colour is: (5, 2)."""
    found = []
    for colour in COLOURS:
        near = np.abs(pixels.astype(int) - colour).max(axis=2) < 60
        rows, columns = np.nonzero(near)
        found.append([columns.mean(), rows.mean()])
    return np.array(found)


def seen(points: np.ndarray, shift: tuple[float, float] = (0, 0), score: float = 0.9) -> Detection:
    moved = points + np.array(shift, np.float32)
    return Detection(box_of(moved), moved, score)


def test_a_labelled_face_gives_a_patch_in_which_it_lies_upright() -> None:
    truth = landmarks_at(180, 140, 30, turn=0.7)
    patches = cut_patches(*photograph(truth), [], weight=3.0)
    assert len(patches) == 1
    assert patches.faces.all()
    assert not patches.framed.any()
    assert patches.weights.tolist() == [3.0]
    np.testing.assert_allclose(patches.points[0], PATCH_TEMPLATE, atol=1e-3)
    np.testing.assert_allclose(dots(patches.pixels[0]), PATCH_TEMPLATE, atol=1.0)


def test_a_detection_lays_the_patch_and_the_truth_labels_it() -> None:
    truth = landmarks_at(180, 140, 30)
    patches = cut_patches(*photograph(truth), [seen(truth, (9, -6))])
    assert patches.framed.tolist() == [False, True]
    # Nine pixels of the photograph at 20 px for 30: the truth lies six to the left and four below of the frame.
    np.testing.assert_allclose(patches.points[1], PATCH_TEMPLATE + np.array([-6, 4]), atol=0.01)
    np.testing.assert_allclose(dots(patches.pixels[1]), patches.points[1], atol=1.0)
    sides = patches.boxes[1, 2:] - patches.boxes[1, :2]
    np.testing.assert_allclose(sides, 2.6 * 20, rtol=1e-3)


def test_false_alarms_are_no_faces_and_doubtful_ones_nothing() -> None:
    truth = landmarks_at(120, 140, 30)
    elsewhere, region = landmarks_at(300, 80, 20), landmarks_at(310, 230, 20)
    picture, label = photograph(truth, ignored=(box_of(region),))
    beside = seen(truth, (34, 0))  # overlaps by 0.3 to 0.5
    patches = cut_patches(picture, label, [seen(truth), beside, seen(elsewhere), seen(region)])
    assert patches.framed.tolist() == [False, True, True]
    assert patches.faces.tolist() == [True, True, False]
    assert np.isnan(patches.points[2]).all()
    assert np.isnan(patches.boxes[2]).all()


def test_a_photograph_without_anything_gives_no_patch() -> None:
    patches = cut_patches(*photograph(), [])
    assert len(patches) == 0
    assert patches.pixels.shape == (0, PATCH_PX, PATCH_PX, 3)
    assert len(Patches.join([patches, patches])) == 0


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_labels_of_a_square_move_with_its_pixels(flip: float) -> None:
    patches = cut_patches(*photograph(landmarks_at(180, 140, 40, 0.2)), [])
    settings = SquareSettings(flip=flip, small=0.0)
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(12):
        pixels, codes, box = draw_square(patches, 0, settings, NOTHING, rng)
        found = dots(pixels)
        if flip:  # the dots keep their colours, the landmarks change sides
            found = found[[1, 0, 2, 4, 3]]
        np.testing.assert_allclose(decode_points(codes), found, atol=1.0)
        frames.append(codes)
        centre = box[:2] * EYES_PX + SIDE_PX / 2
        np.testing.assert_allclose(centre, decode_points(codes).mean(0), atol=0.8)
    assert np.std(frames, axis=0).max() > 0.05  # they do differ


def test_what_a_detector_laid_is_moved_less() -> None:
    truth = landmarks_at(180, 140, 40)
    patches = cut_patches(*photograph(truth), [seen(truth)])
    spread = [
        np.std(
            [draw_square(patches, row, SquareSettings(flip=0.0), NOTHING, rng)[1] for _ in range(200)], axis=0
        ).mean()
        for row, rng in enumerate((np.random.default_rng(0), np.random.default_rng(0)))
    ]
    assert spread[1] == pytest.approx(spread[0] * 0.4, rel=0.15)


def test_losses_ignore_what_is_unknown() -> None:
    recipe = parse_recipe(Recipe, read_toml(find_recipe("refiner")))
    truth = landmarks_at(180, 140, 40)
    patches = cut_patches(*photograph(truth), [seen(truth, (4, 2)), seen(landmarks_at(60, 60, 20))])
    task = RefinerTask(recipe, patches, patches)
    task.module.eval()
    squares = np.zeros((2, 3, SIDE_PX, SIDE_PX), np.float32)
    points, boxes = np.zeros((2, 10), np.float32), np.zeros((2, 4), np.float32)
    points[1], boxes[1] = np.nan, np.nan
    both = task.losses(make_batch(squares, np.array([True, False]), points, boxes), 0, 0.0)
    first = task.losses(make_batch(squares[:1], np.array([True]), points[:1], boxes[:1]), 0, 0.0)
    for term in ("landmarks", "boxes"):
        assert both[term].item() == pytest.approx(first[term].item(), rel=1e-5)
        assert np.isfinite(both[term].item())
    nothing = task.losses(make_batch(squares[:1], np.array([False]), points[1:], boxes[1:]), 0, 0.0)
    assert nothing["landmarks"].item() == nothing["boxes"].item() == 0.0


def test_smooth_l1_by_hand() -> None:
    recipe = parse_recipe(Recipe, read_toml(find_recipe("refiner"), ["loss.beta=0.1", "loss.landmarks=2.0"]))
    truth = landmarks_at(180, 140, 40)
    patches = cut_patches(*photograph(truth), [seen(truth), seen(landmarks_at(60, 60, 20))])
    task = RefinerTask(recipe, patches, patches)
    task.module.eval()
    rng = np.random.default_rng(0)
    squares = rng.normal(size=(3, 3, SIDE_PX, SIDE_PX)).astype(np.float32)
    points, boxes = rng.normal(size=(3, 10)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    faces = np.array([True, False, True])
    losses = task.losses(make_batch(squares, faces, points, boxes), 0, 0.0)
    with torch.no_grad():
        got = [part.double().numpy() for part in task.student(torch.from_numpy(squares))]
    error = np.abs(got[0] - points)
    by_hand = np.where(error < 0.1, error**2 / 0.2, error - 0.05).mean()
    assert losses["landmarks"].item() == pytest.approx(2.0 * by_hand, rel=1e-5)
    entropy = np.where(faces, np.log1p(np.exp(-got[2])), np.log1p(np.exp(got[2]))).mean()
    assert losses["score"].item() == pytest.approx(entropy, rel=1e-5)


def test_judged_by_what_the_detector_laid_and_people_labelled() -> None:
    first, second = landmarks_at(100, 100, 30), landmarks_at(280, 180, 30)
    people = cut_patches(*photograph(first), [seen(first, (3, 0))], weight=8.0)
    machine = cut_patches(*photograph(second), [seen(second, (-6, 0)), seen(landmarks_at(60, 250, 20))])
    wanted, pixels = judged_squares(Patches.join([people, machine]))
    assert len(pixels) == 3  # the patches that lie by their truth are not judged
    assert wanted.faces.tolist() == [1.0, 1.0, 0.0]
    assert wanted.points_known.tolist() == [1.0, 0.0, 0.0]
    np.testing.assert_allclose(wanted.points[0].reshape(5, 2).numpy(), [[-0.1, 0]] * 5, atol=1e-3)
    recipe = parse_recipe(Recipe, read_toml(find_recipe("refiner")))
    task = RefinerTask(recipe, people, Patches.join([people, machine]))
    figures = task.validate(task.student)
    assert figures["before"] == pytest.approx(0.1, abs=1e-3)  # three of thirty pixels


class ElsewhereNetwork(torch.nn.Module):
    """Its weights lie on another device, and it notes where its squares come from."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, device="meta"))
        self.seen: list[str] = []

    def forward(self, squares: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.seen.append(squares.device.type)
        return torch.zeros(len(squares), 10), torch.zeros(len(squares), 4), torch.zeros(len(squares))


def test_validation_takes_the_squares_to_where_the_network_is() -> None:
    recipe = parse_recipe(Recipe, read_toml(find_recipe("refiner")))
    truth = landmarks_at(180, 140, 30)
    patches = cut_patches(*photograph(truth), [seen(truth)])
    network = ElsewhereNetwork()
    RefinerTask(recipe, patches, patches).validate(network)
    assert network.seen == ["meta"]


def test_nothing_to_learn_from_or_to_judge_by_is_an_error() -> None:
    recipe = parse_recipe(Recipe, read_toml(find_recipe("refiner")))
    truth = landmarks_at(180, 140, 40)
    good = cut_patches(*photograph(truth), [seen(truth)])
    unseen = cut_patches(*photograph(truth), [])
    with pytest.raises(DataError, match="no labelled face could be cut"):
        RefinerTask(recipe, cut_patches(*photograph(), [seen(truth)]), good)
    with pytest.raises(DataError, match="found no face with known landmarks"):
        RefinerTask(recipe, good, unseen)


@pytest.mark.parametrize("key", ["weight=2.0", "hold_out_every=3", "longest_side=640"])
def test_settings_that_a_refiner_does_not_heed_are_refused(key: str) -> None:
    table = read_toml(find_recipe("refiner"), [f"data.validation.{key}"])
    with pytest.raises(ConfigError, match=f"{key.split('=')[0]}: Extra inputs are not permitted"):
        parse_recipe(Recipe, table)


def test_the_packaged_recipe_prepares_pixels_like_the_shipped_model() -> None:
    recipe = parse_recipe(Recipe, read_toml(find_recipe("refiner")))
    shipped = find_model("face-refiner")
    assert recipe.preprocessing == shipped.preprocessing
    assert shipped.card.parameters == sum(p.numel() for p in RefinerNetwork(recipe.network).parameters())


def test_from_a_recipe_to_a_model_that_runs(fake_zoo: Path, tmp_path: Path, paint_face) -> None:
    """On painted faces that the fake detector finds: labels lie a little beside what it says, and are learnt."""
    data = tmp_path / "data"
    (data / "detection").mkdir(parents=True)
    lines, pictures = [], []
    for number in range(4):
        picture = np.full((256, 320, 3), 128, np.uint8)
        side = 48 + 8 * number
        paint_face(picture, 60 + 20 * number, 40 + 15 * number, side, person=number)
        middle = np.array([60 + 20 * number + side / 2, 40 + 15 * number + side / 2])
        points = landmarks_at(middle[0] + 3, middle[1] - 2, eyes=side * 35.24 / 112)
        marks = " ".join(f"{x:.2f} {y:.2f} 0.0" for x, y in points)
        lines.append(f"# {number}.png 320 256\n{60 + 20 * number} {40 + 15 * number} {side} {side} {marks} 1\n")
        pictures.append((f"{number}.png", picture))
    for split in ("train", "val"):
        (data / f"detection/{split}.txt").write_text("".join(lines))
        with zipfile.ZipFile(data / f"detection/{split}.zip", "w") as archive:
            for name, picture in pictures:
                archive.writestr(name, cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    (data / "detection/photographs.csv").write_text("file,source\n0.png,helen\n1.png,afw\n", encoding="utf-8-sig")
    recipe = parse_recipe(
        Recipe,
        read_toml(
            find_recipe("refiner"),
            [
                f'data.folders=["{data}"]',
                "training.steps=40",
                "training.validate_every=40",
                "training.ema_decay=0.5",
                "training.learning_rate=3e-3",
                "data.batch=16",
                "data.squares.flip=0.0",
                "network.dropout=0.0",
            ],
        ),
    )
    said: list[str] = []
    task = build_task(recipe, said.append)
    assert any("WIDER_val/images" in line for line in said)  # optional, and not there
    again = task.batch(7)
    for one, other in zip(task.batch(7), again, strict=True):
        assert torch.equal(one, other)  # a pure function of the step
    before = task.validate(task.student)["nme"]
    outcome = fit(task, recipe.training, tmp_path / "run", on_best=lambda w: record(w, recipe))
    assert outcome.best_path is not None
    after = task.validate(task.student)["nme"]
    assert after < before * 0.8

    weights = tmp_path / "run/best.onnx"
    network = ExportedRefiner(RefinerNetwork(recipe.network)).eval()
    load_onnx_weights(network, weights)
    squares = np.random.default_rng(0).integers(0, 256, (3, SIDE_PX, SIDE_PX, 3), np.uint8)
    refiner = Refiner(weights, threads=1)
    with torch.no_grad():
        wanted = network(torch.from_numpy(recipe.preprocessing.apply(squares)))
    for ours, theirs in zip(refiner._look(squares), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)
    assert find_model(weights).task == "refiner"


def record(weights: Path, recipe: Recipe) -> None:
    write_record(weights, "refiner", recipe.preprocessing, ModelCard())


def test_a_mirrored_square_lies_about_the_same_middle() -> None:
    """Else the two would differ in where the frame lies, which the network cannot see."""
    patches = cut_patches(*photograph(landmarks_at(180, 140, 40)), [])
    still = SquareSettings(shift=0, turn=0, scale=0, small=0, flip=0)
    _, straight, _ = draw_square(patches, 0, still, NOTHING, np.random.default_rng(0))
    _, mirrored, _ = draw_square(patches, 0, still.model_copy(update={"flip": 1.0}), NOTHING, np.random.default_rng(0))
    turned = decode_points(straight)[[1, 0, 2, 4, 3]] * [-1, 1] + [SIDE_PX, 0]
    np.testing.assert_allclose(decode_points(mirrored), turned, atol=1e-3)
