"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class AveragedWeights:
    """A second copy of a network that trails the trained one.

    The decay is warmed up, ``min(decay, (1 + n) / (10 + n))`` after ``n`` updates, so that the average does not
    carry the random first weights for thousands of steps. Floating-point buffers (the statistics of BatchNorm)
    are averaged like weights; integer buffers are copied.

    Args:
        network: the network that is trained.
        decay: share of the average that is kept at each update; 0 makes the average a plain copy.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the current weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.decay else 0.0
        current = network.state_dict()
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1.0 - decay)
            else:
                value.copy_(current[name])
