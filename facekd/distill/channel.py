"""Channel-wise distillation (CWD): each channel's map as a probability distribution over places."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from facekd.distill.numerics import check_same_shape, float32_inside, weighted_mean


@float32_inside
def channel_wise_loss(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, weights: Tensor | None = None
) -> Tensor:
    """KL divergence between the channels' softmax over places, times T squared, mean over channels and photographs.

    Shu et al. 2021, "Channel-wise Knowledge Distillation for Dense Prediction", https://arxiv.org/abs/2011.13256,
    equations 4 and 5: T^2 / C * sum over channels and places of p (log p - log q). The softmax runs over the H * W
    places of one channel, not over channels.

    Args:
        student: (N, C, H, W) after its adapter.
        teacher: the same shape; constants.
        temperature: T > 0; 4 for features, 1 for logits maps in the paper. Lower looks at each channel's peak only.
        weights: (N,) per-sample weights >= 0, or None.

    Returns:
        Scalar >= 0; 0 when every channel has the same distribution (adding a constant to a channel changes nothing).

    Raises:
        ValueError: the shapes differ, are not maps, or the temperature is not above 0.
    """
    check_same_shape(student, teacher, "channel-wise distillation")
    if student.ndim != 4:
        raise ValueError(f"channel-wise distillation needs (N, C, H, W) maps, got {tuple(student.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}; the paper uses 4")
    log_student = F.log_softmax(student.flatten(2) / temperature, dim=2)
    log_teacher = F.log_softmax(teacher.detach().flatten(2) / temperature, dim=2)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=2)
    return temperature**2 * weighted_mean(divergence, weights)


class ChannelWiseLoss(nn.Module):
    """`channel_wise_loss` as a module."""

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}; the paper uses 4")
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `channel_wise_loss`."""
        return channel_wise_loss(student, teacher, self.temperature, weights)
