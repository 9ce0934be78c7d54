"""Adapters: bring the student's features to the teacher's shape, in training only.

Channels (or dimensions) meet through a learnt 1x1 convolution (a linear map for vectors), places through interpolation.
Where neither fits, building one is refused: pooling a mismatch away would compare things that do not correspond.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekd.errors import ConfigError

AdapterKind = Literal["auto", "always", "none"]
PairNormalisation = Literal["none", "batch"]


class Adapter(nn.Module):
    """Student features to the teacher's shape; optionally both sides through a BatchNorm of their own.

    Args:
        student_shape: of one photograph, (C, H, W) or (D,).
        teacher_shape: likewise.
        kind: `auto` learns a map only where channels differ; `always` learns one in any case (the student need not copy
            the teacher's axes); `none` refuses where channels differ.
        normalise: `batch` standardises each channel over the batch, student and teacher by *separate* BatchNorms
            without affine parameters: a shared one would mix the two networks' statistics.
        channels: False where the loss does not compare channel by channel (attention): only places are then matched.
        places: False where the loss does not compare place by place (Gram): only channels are then matched.

    Raises:
        ConfigError: a map meets a vector, aspect ratios differ, or channels differ and no map may be learnt.
    """

    def __init__(
        self,
        student_shape: tuple[int, ...],
        teacher_shape: tuple[int, ...],
        kind: AdapterKind = "auto",
        normalise: PairNormalisation = "none",
        channels: bool = True,
        places: bool = True,
    ) -> None:
        super().__init__()
        shapes = f"student {student_shape}, teacher {teacher_shape}"
        if len(student_shape) != len(teacher_shape) or len(student_shape) not in (1, 3):
            raise ConfigError(f"no adapter fits {shapes}: tap two maps (C, H, W) or two vectors (D,)")
        maps = len(student_shape) == 3
        if maps and places and student_shape[1] * teacher_shape[2] != student_shape[2] * teacher_shape[1]:
            raise ConfigError(f"no adapter fits {shapes}: the maps have different aspect ratios; tap other layers")
        differ = student_shape[0] != teacher_shape[0]
        if channels and differ and kind == "none":
            raise ConfigError(f"no adapter was allowed, but channels differ: {shapes}; use adapter = 'auto'")
        self._places = maps and places
        self.map: nn.Module = nn.Identity()
        if channels and (kind == "always" or (kind == "auto" and differ)):
            a, b = student_shape[0], teacher_shape[0]
            self.map = nn.Conv2d(a, b, 1, bias=False) if maps else nn.Linear(a, b, bias=False)
        norm = nn.BatchNorm2d if maps else nn.BatchNorm1d
        separate = normalise == "batch"
        seen = teacher_shape[0] if channels else student_shape[0]
        self.student_norm: nn.Module = norm(seen, affine=False) if separate else nn.Identity()
        self.teacher_norm: nn.Module = norm(teacher_shape[0], affine=False) if separate else nn.Identity()

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(student, teacher) features, comparable. No gradient reaches the teacher's side."""
        adapted = self.map(student)
        # Crops may grow during a run, and the teacher's maps with them.
        if self._places and adapted.shape[2:] != teacher.shape[2:]:
            adapted = resize(adapted, (teacher.shape[2], teacher.shape[3]))
        return self.student_norm(adapted), self.teacher_norm(teacher.detach())


def resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps: averaged where they shrink (bilinear sampling would skip places), bilinear where they grow."""
    if features.shape[2] >= size[0] and features.shape[3] >= size[1]:
        return F.adaptive_avg_pool2d(features, size)
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def least_squares_map(student: Tensor, teacher: Tensor, ridge: float = 1e-3) -> Tensor:
    """The linear map (T, D) that best turns student embeddings into the teacher's; a start for a refitted adapter.

    A committed model holds no adapter; with this one pass over some data replaces training it again.

    Args:
        student: (M, D), M >= D is wise.
        teacher: (M, T).
        ridge: added to the diagonal of the normal equations, relative to its mean.

    Returns:
        (T, D) float32: the weight of `nn.Linear(D, T, bias=False)`.
    """
    x, y = F.normalize(student.double(), dim=1), F.normalize(teacher.double(), dim=1)
    gram = x.T @ x
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    return torch.linalg.solve(gram, x.T @ y).T.float()
