"""The loss of the detector.

RetinaFace's multi-task loss (Deng et al. 2019, https://arxiv.org/abs/1905.00641, equation 1) with mined negatives (SSD,
Liu et al. 2016, https://arxiv.org/abs/1512.02325, section 2.2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from pydantic import Field
from torch import Tensor

from facekd.detection.data.batches import DetectionBatch
from facekd.detection.data.targets import NEGATIVE, POSITIVE
from facekd.detection.network import Predictions
from facekd.engine.settings import Section


class LossSettings(Section):
    """Weights of the terms.

    Attributes:
        score, box, landmarks: weights; 1, 2 and 1 as in the common MobileNet port (the paper: 1, 0.25, 0.1).
        box_beta, landmark_beta: error, in units of the codes (a tenth of the anchor's side for points), below which
            smooth L1 is quadratic; 1 as in the common port. Small values keep pulling on small errors, which decide
            how well a face is aligned.
        negatives_per_positive: mined negatives for each positive anchor of a picture (port: 7, paper: 3).
        least_negatives: floor of the mined negatives of a picture, so that one without faces teaches too.
    """

    score: float = Field(default=1.0, ge=0)
    box: float = Field(default=2.0, ge=0)
    landmarks: float = Field(default=1.0, ge=0)
    box_beta: float = Field(default=1.0, gt=0)
    landmark_beta: float = Field(default=1.0, gt=0)
    negatives_per_positive: int = Field(default=7, gt=0)
    least_negatives: int = Field(default=16, ge=0)


def multibox_loss(predictions: Predictions, batch: DetectionBatch, settings: LossSettings) -> dict[str, Tensor]:
    """Weighted terms for score, box and landmarks.

    * score: binary cross-entropy over positives and mined negatives, summed, over the number of positives;
    * box: smooth L1 of the codes of positives, summed over the four, over the number of positives;
    * landmarks: smooth L1 of the codes of positives whose landmarks are known, weighted face by face, summed over
      the ten, over the sum of the weights.

    Each denominator is at least 1. Ignored anchors enter nowhere.

    Args:
        predictions: of N pictures with A anchors.
        batch: what they should have been.
        settings: weights.

    Returns:
        ``{"score", "box", "landmarks"}``, scalars.
    """
    logits = predictions.logits.float()
    positive = batch.labels == POSITIVE
    mined = mine_negatives(logits.detach(), batch.labels, settings.negatives_per_positive, settings.least_negatives)
    entropy = functional.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    positives = max(len(batch.positives), 1)
    score = entropy[positive | mined].sum() / positives

    pictures, squares = batch.positives.unbind(1)
    box = functional.smooth_l1_loss(
        predictions.boxes[pictures, squares].float(), batch.boxes, reduction="sum", beta=settings.box_beta
    )
    points = functional.smooth_l1_loss(
        predictions.landmarks[pictures, squares].float(),
        batch.landmarks,
        reduction="none",
        beta=settings.landmark_beta,
    )
    landmarks = (points.sum(dim=1) * batch.landmark_weights).sum() / batch.landmark_weights.sum().clamp(min=1.0)
    return {
        "score": settings.score * score,
        "box": settings.box * box / positives,
        "landmarks": settings.landmarks * landmarks,
    }


def mine_negatives(logits: Tensor, labels: Tensor, per_positive: int, least: int) -> Tensor:
    """The hardest negatives of each picture: those that the network scores highest.

    Args:
        logits: (N, A) scores before the sigmoid.
        labels: (N, A): 1 positive, 0 negative, -1 ignored.
        per_positive: negatives for each positive of the picture.
        least: at least so many, if the picture has them.

    Returns:
        (N, A) bool.
    """
    negative = labels == NEGATIVE
    wanted = ((labels == POSITIVE).sum(dim=1) * per_positive).clamp(min=least)
    wanted = torch.minimum(wanted, negative.sum(dim=1))
    most = int(wanted.max())
    mined = torch.zeros_like(negative)
    if most == 0:
        return mined
    hardest = logits.masked_fill(~negative, -torch.inf).topk(most, dim=1).indices
    within = torch.arange(most, device=logits.device)[None, :] < wanted[:, None]
    return mined.scatter_(1, hardest, within)
