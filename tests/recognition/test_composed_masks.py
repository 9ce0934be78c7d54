import numpy as np
import pytest

pytest.importorskip("torch")

from facekd.engine.settings import parse_recipe
from facekd.errors import ConfigError
from facekd.recognition import mask_train
from facekd.recognition.data.composed_masks import (
    compose,
    compose_correct,
    compose_incorrect,
    compose_none,
)
from facekd.recognition.data.mask_shards import MaskSet

EYES, NOSE, MOUTH, CHIN = 50, 70, 90, 108  # rows of the ArcFace template, in the middle column
MIDDLE = 56


def dark_face() -> np.ndarray:
    return np.full((112, 112, 3), 40, np.uint8)


def bright_mask() -> np.ndarray:
    """As dark as the face down to the nose's bridge, a bright mask below."""
    crop = dark_face()
    crop[66:] = 220
    return crop


def is_mask(crop: np.ndarray, row: int) -> bool:
    return bool(crop[row, MIDDLE].mean() > 130)


def test_a_correct_mask_covers_nose_and_mouth_and_an_incorrect_one_never_the_nose() -> None:
    rng = np.random.default_rng(0)
    mouths = []
    for _ in range(50):
        correct = compose_correct(dark_face(), bright_mask(), rng)
        assert not is_mask(correct, EYES)
        assert is_mask(correct, NOSE + 4)
        assert is_mask(correct, MOUTH)
        incorrect = compose_incorrect(dark_face(), bright_mask(), rng)
        assert not is_mask(incorrect, NOSE)
        assert is_mask(incorrect, CHIN)
        mouths.append(is_mask(incorrect, MOUTH))
    assert 0.25 < np.mean(mouths) < 0.85  # both ways of wearing it wrongly: under the nose, and under the mouth


def test_without_a_mask_nothing_looks_like_one() -> None:
    rng = np.random.default_rng(1)
    composed = compose_none(dark_face(), dark_face(), rng)
    assert composed.max() <= 41


def test_the_light_of_the_lower_part_follows_the_upper_one() -> None:
    rng = np.random.default_rng(2)
    above = np.clip(rng.normal(60, 10, (112, 112, 3)), 0, 255).astype(np.uint8)
    below = np.clip(rng.normal(200, 10, (112, 112, 3)), 0, 255).astype(np.uint8)
    means = [float(compose(above, below, 0.0, rng)[90:110, 40:70].mean()) for _ in range(20)]
    assert max(means) < 145  # at least half of the way from 200 to 60


def test_what_lies_beside_the_face_stays() -> None:
    above, below = np.zeros((112, 112, 3), np.uint8), np.full((112, 112, 3), 255, np.uint8)
    composed = compose(above, below, 0.0, np.random.default_rng(3))
    assert composed[:, :2].max() == 0
    assert composed[:, -2:].max() == 0
    assert compose(above, below, 0.0, np.random.default_rng(3)).tobytes() == composed.tobytes()


def marked_set() -> MaskSet:
    """Crops whose blue channel names their status: 10 none, 20 mask, 30 incorrect."""
    labels = np.arange(12) % 3
    crops = np.zeros((12, 112, 112, 3), np.uint8)
    crops[..., 2] = (10 * (labels + 1))[:, None, None]
    return MaskSet(crops, labels)


def recipe(**data: object) -> mask_train.Recipe:
    plain = {"flip": 0, "shift": 0, "zoom": 0, "rotate_degrees": 0, "light": 0, "grey": 0, "low_resolution": 0}
    plain |= {"blur": 0, "jpeg": 0, "occlude": 0, "mask": 0}
    settings = {
        "kind": "mask",
        "training": {"steps": 1, "learning_rate": 0.1},
        "network": {"widths": [32, 32, 32]},
        "data": {"batch": 48, "augmentation": plain, **data},
    }
    return parse_recipe(mask_train.Recipe, settings)


def blues(task: mask_train.MaskTask, status: int) -> set[int]:
    """Blue values in the crops of one status, over some batches."""
    seen: set[int] = set()
    for step in range(4):
        batch = task.batch(step)
        chosen = batch["crops"][batch["labels"] == status][:, 2] * 127.5 + 127.5
        seen |= {int(value) for value in chosen.round().unique()}
    return seen


def test_a_recipe_says_which_share_of_each_status_is_composed() -> None:
    plain = mask_train.MaskTask(recipe(), marked_set(), marked_set())
    assert [blues(plain, status) for status in range(3)] == [{10}, {20}, {30}]
    composed = mask_train.MaskTask(recipe(composed=[0.0, 0.0, 1.0]), marked_set(), marked_set())
    assert blues(composed, 0) == {10}
    assert blues(composed, 1) == {20}
    assert 30 not in blues(composed, 2)
    assert 10 in blues(composed, 2)


def test_faces_without_masks_join_the_status_none_only() -> None:
    faces = np.full((5, 112, 112, 3), 77, np.uint8)
    task = mask_train.MaskTask(recipe(faces_share=0.5), marked_set(), marked_set(), faces)
    assert blues(task, 0) == {10, 77}
    assert blues(task, 1) == {20}
    assert blues(task, 2) == {30}


def test_a_trunk_is_refused_for_networks_without_one() -> None:
    settings = recipe().model_copy(update={"network": mask_train.NetworkSettings(trunk="dense-resnet")})
    with pytest.raises(ConfigError, match="trunk"):
        mask_train.MaskTask(settings, marked_set(), marked_set())


def test_the_teacher_starts_as_the_embedder() -> None:
    network = mask_train.NetworkSettings(architecture="embedder", trunk="dense-resnet")
    task = mask_train.MaskTask(recipe().model_copy(update={"network": network}), marked_set(), marked_set())
    other = mask_train.MaskTask(
        recipe().model_copy(update={"network": mask_train.NetworkSettings(architecture="embedder")}),
        marked_set(),
        marked_set(),
    )
    from facekd import Embedder

    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    expected = Embedder("dense-resnet").embed(crops)
    for trained, close in ((task, True), (other, False)):
        embeddings = mask_train.predict_logits(trained.student.trunk, crops)  # type: ignore[arg-type]
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        cosines = (embeddings * expected).sum(1)
        assert bool((cosines > 0.9999).all()) == close
