"""The detector's loss against a loop over anchors written from its facts."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from facekd.detection.data.batches import DetectionBatch  # noqa: E402
from facekd.detection.loss import LossSettings, mine_negatives, multibox_loss  # noqa: E402
from facekd.detection.network import Predictions  # noqa: E402


def make_batch(labels: list[list[int]], weights: list[float], seed: int = 0) -> DetectionBatch:
    table = torch.tensor(labels, dtype=torch.int8)
    positives = (table == 1).nonzero()
    generator = torch.Generator().manual_seed(seed)
    return DetectionBatch(
        torch.zeros(len(labels), 32, 32, 3, dtype=torch.uint8),
        table,
        positives,
        torch.randn(len(positives), 4, generator=generator),
        torch.randn(len(positives), 10, generator=generator),
        torch.tensor(weights, dtype=torch.float32),
        torch.zeros(0, 4),
        torch.zeros(0, 5, 2),
        torch.zeros(0, dtype=torch.int64),
    )


def make_predictions(pictures: int, squares: int, seed: int = 1) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((pictures, squares), (pictures, squares, 4), (pictures, squares, 10))
    return Predictions(*(torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes))


def smooth_l1(difference: float, beta: float) -> float:
    return 0.5 * difference**2 / beta if abs(difference) < beta else abs(difference) - 0.5 * beta


def naive_loss(predictions: Predictions, batch: DetectionBatch, settings: LossSettings) -> dict[str, float]:
    predictions = Predictions(*(part.detach().double() for part in predictions))
    logits = predictions.logits.tolist()
    labels = batch.labels.tolist()
    score = 0.0
    for row, marks in zip(logits, labels, strict=True):
        chosen = [a for a, mark in enumerate(marks) if mark == 1]
        score += sum(math.log1p(math.exp(-row[a])) for a in chosen)
        negatives = sorted((row[a] for a, mark in enumerate(marks) if mark == 0), reverse=True)
        wanted = max(len(chosen) * settings.negatives_per_positive, settings.least_negatives)
        score += sum(math.log1p(math.exp(value)) for value in negatives[:wanted])
    box = landmarks = 0.0
    for i, (n, a) in enumerate(batch.positives.tolist()):
        errors = (predictions.boxes[n, a] - batch.boxes[i]).tolist()
        box += sum(smooth_l1(error, settings.box_beta) for error in errors)
        errors = (predictions.landmarks[n, a] - batch.landmarks[i]).tolist()
        points = sum(smooth_l1(error, settings.landmark_beta) for error in errors)
        landmarks += points * float(batch.landmark_weights[i])
    count = max(len(batch.positives), 1)
    return {
        "score": settings.score * score / count,
        "box": settings.box * box / count,
        "landmarks": settings.landmarks * landmarks / max(float(batch.landmark_weights.sum()), 1.0),
    }


LABELS = [[1, 0, 0, -1, 0, 1, 0, 0, 0, 0, 0, 0], [0] * 12, [0, -1, -1, 1, 0, 0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "weights"),
    [
        (LABELS, [1.0, 2.0, 0.0]),
        (LABELS, [0.0, 0.0, 0.0]),  # nobody's landmarks are known
        (LABELS, [0.25, 0.0, 0.25]),  # weights below 1 in all: the divisor stays 1
        ([[0] * 12, [-1] * 12], []),  # no face; and a picture with nothing but an ignore region
    ],
)
@pytest.mark.parametrize(
    "settings",
    [
        LossSettings(),
        LossSettings(negatives_per_positive=2, least_negatives=3),
        LossSettings(box_beta=0.3, landmark_beta=0.2),
    ],
)
def test_terms_agree_with_the_loop(labels: list[list[int]], weights: list[float], settings: LossSettings) -> None:
    batch, predictions = make_batch(labels, weights), make_predictions(len(labels), 12)
    terms = multibox_loss(predictions, batch, settings)
    expected = naive_loss(predictions, batch, settings)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_bfloat16_predictions_give_the_same_terms_within_its_precision() -> None:
    batch, predictions = make_batch(LABELS, [1.0, 1.0, 1.0]), make_predictions(3, 12)
    coarse = multibox_loss(Predictions(*(part.bfloat16() for part in predictions)), batch, LossSettings())
    fine = multibox_loss(predictions, batch, LossSettings())
    for name in fine:
        assert float(coarse[name]) == pytest.approx(float(fine[name]), rel=0.03), name


def test_a_picture_without_faces_teaches_and_ignored_anchors_do_not() -> None:
    labels = [[1] + [0] * 5, [0] * 6, [-1] * 6]
    batch, predictions = make_batch(labels, [1.0]), make_predictions(3, 6)
    sum(multibox_loss(predictions, batch, LossSettings(least_negatives=2)).values()).backward()
    gradient = predictions.logits.grad
    assert (gradient[1] > 0).sum() == 2
    assert (gradient[2] == 0).all()
    assert (predictions.boxes.grad[1:] == 0).all()


def test_predictions_that_equal_the_targets_cost_nothing() -> None:
    batch = make_batch(LABELS, [1.0, 1.0, 1.0])
    logits = torch.where(batch.labels == 1, 30.0, -30.0)
    boxes, landmarks = torch.zeros(3, 12, 4), torch.zeros(3, 12, 10)
    boxes[batch.positives[:, 0], batch.positives[:, 1]] = batch.boxes
    landmarks[batch.positives[:, 0], batch.positives[:, 1]] = batch.landmarks
    terms = multibox_loss(Predictions(logits, boxes, landmarks), batch, LossSettings())
    assert float(sum(terms.values())) == pytest.approx(0.0, abs=1e-9)


def test_gradients_stay_finite_at_extreme_logits() -> None:
    batch = make_batch(LABELS, [1.0, 1.0, 1.0])
    logits = (torch.tensor([[1e4, -1e4] * 6] * 3)).requires_grad_()
    predictions = make_predictions(3, 12)._replace(logits=logits)
    sum(multibox_loss(predictions, batch, LossSettings()).values()).backward()
    assert torch.isfinite(logits.grad).all()


def test_the_mined_negatives_are_those_scored_highest() -> None:
    logits = torch.from_numpy(np.random.default_rng(3).permutation(20).astype(np.float32))[None]
    labels = torch.zeros(1, 20, dtype=torch.int8)
    labels[0, logits[0].argmax()] = 1
    labels[0, (logits[0] == 18).nonzero()] = -1
    mined = mine_negatives(logits, labels, per_positive=7, least=0)
    assert sorted(logits[mined].tolist()) == [11, 12, 13, 14, 15, 16, 17]
