"""Local alignment: features compared in patches around the true faces and around their landmarks only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.numerics import check_same_shape, float32_inside


@float32_inside
def patches(features: Tensor, boxes: Tensor, photographs: Tensor, stride: float, size: int) -> Tensor:
    """Bilinear samples of a map on a size x size grid in each box (at the centres of the grid's cells).

    Args:
        features: (N, C, H, W) map whose cell (0, 0) has its centre at (stride / 2, stride / 2) pixels.
        boxes: (K, 4) x1, y1, x2, y2 in pixels of the picture; what lies outside the map repeats its border.
        photographs: (K,) integer index into N.
        stride: pixels a cell.
        size: cells a side of a patch.

    Returns:
        (K, C, size, size).

    Raises:
        ValueError: a box without a photograph, or of one that is not there.
    """
    if len(photographs) != len(boxes):
        raise ValueError(f"wanted a photograph for each of {len(boxes)} boxes, got {len(photographs)}")
    if not len(boxes):
        return features.new_zeros((0, features.shape[1], size, size))
    if int(photographs.min()) < 0 or int(photographs.max()) >= len(features):
        raise ValueError(
            f"photographs are numbered 0 to {len(features) - 1}, got {int(photographs.min())} to "
            f"{int(photographs.max())}"
        )
    height, width = features.shape[2:]
    steps = (torch.arange(size, device=features.device, dtype=features.dtype) + 0.5) / size
    boxes = boxes.to(features.dtype)
    x = boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * steps  # (K, size) pixels
    y = boxes[:, 1:2] + (boxes[:, 3:] - boxes[:, 1:2]) * steps
    # align_corners=False: -1 is the outer edge of the first cell, 1 that of the last.
    columns, rows = 2 * x / (stride * width) - 1, 2 * y / (stride * height) - 1
    grid = torch.stack(torch.broadcast_tensors(columns.unsqueeze(1), rows.unsqueeze(2)), dim=3)
    # A photograph's patches stand below each other in one grid: a copy of its map for each would be a gigabyte.
    found, places = [], []
    for number, own in enumerate(features.split(1)):
        mine = (photographs == number).nonzero().squeeze(1)
        if len(mine):
            column = grid[mine].flatten(0, 1).unsqueeze(0)
            sampled = F.grid_sample(own, column, padding_mode="border", align_corners=False)
            found.append(sampled.squeeze(0).unflatten(1, (len(mine), size)).transpose(0, 1))
            places.append(mine)
    return torch.cat(found)[torch.cat(places).argsort()]


def landmark_boxes(boxes: Tensor, landmarks: Tensor, photographs: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Squares around known landmarks.

    Args:
        boxes: (K, 4) of the faces, pixels.
        landmarks: (K, 5, 2) pixels, NaN where unknown.
        photographs: (K,) index of the photograph.
        share: side of a square as a share of the face's longer side.

    Returns:
        (L, 4) boxes and (L,) their photographs, L <= 5 K.
    """
    half = share * (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)[:, None, None].expand(-1, 5, 1) / 2
    known = torch.isfinite(landmarks).all(dim=2)
    squares = torch.cat([landmarks - half, landmarks + half], dim=2)
    return squares[known], photographs[:, None].expand(-1, 5)[known]


@float32_inside
def local_alignment_loss(
    student: Tensor,
    teacher: Tensor,
    boxes: Tensor,
    photographs: Tensor,
    stride: float,
    landmarks: Tensor | None = None,
    size: int = 5,
    landmark_share: float = 0.25,
) -> Tensor:
    """One minus the cosine of the channels of student and teacher, place by place in patches on faces and landmarks.

    After Wang et al. 2019, "Distilling Object Detectors with Fine-grained Feature Imitation",
    https://arxiv.org/abs/1906.03609, section 3: only features near objects are imitated, since a detector's map is
    mostly background. Departures: patches of the true boxes and of squares around the landmarks take the place of its
    anchor-derived mask (every face weighs the same, however large), and the cosine that of the squared difference (the
    teacher's scale need not be learnt).

    Args:
        student: (N, C, H, W) after its adapter.
        teacher: the same shape; constants.
        boxes: (K, 4) true faces x1, y1, x2, y2 in pixels of the picture.
        photographs: (K,) integer index of each face's photograph.
        stride: pixels a cell of both maps.
        landmarks: (K, 5, 2) in pixels with NaN where unknown, or None.
        size: cells a side of each patch.
        landmark_share: side of a landmark's square as a share of the face's longer side.

    Returns:
        Scalar in 0..2; 0 when all channels point the same way in all patches, and when there is no face.

    Raises:
        ValueError: the maps differ in shape.
    """
    check_same_shape(student, teacher, "local alignment")
    places, owners = boxes.detach(), photographs
    if landmarks is not None and len(boxes):
        squares, square_owners = landmark_boxes(places, landmarks.detach(), photographs, landmark_share)
        places, owners = torch.cat([places, squares]), torch.cat([photographs, square_owners])
    if not len(places):
        return student.sum() * 0.0
    seen = patches(student, places, owners, stride, size)
    known = patches(teacher.detach(), places, owners, stride, size)
    return (1.0 - F.cosine_similarity(seen, known, dim=1)).mean()


class LocalAlignmentLoss(nn.Module):
    """`local_alignment_loss` as a module."""

    def __init__(self, stride: float, size: int = 5, landmark_share: float = 0.25) -> None:
        super().__init__()
        self.stride, self.size, self.landmark_share = stride, size, landmark_share

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        boxes: Tensor,
        photographs: Tensor,
        landmarks: Tensor | None = None,
    ) -> Tensor:
        """See `local_alignment_loss`."""
        return local_alignment_loss(
            student, teacher, boxes, photographs, self.stride, landmarks, self.size, self.landmark_share
        )
