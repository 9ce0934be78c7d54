"""Exponential moving averages of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float, updates: int) -> None:
    """Move a network's average one update towards its current weights.

    The decay is warmed up, ``min(decay, (1 + n) / (10 + n))`` at the ``n``-th update, so that the average does not
    carry the random first weights for thousands of steps. Floating-point buffers (the statistics of BatchNorm) are
    averaged like weights; integer buffers are copied.

    Args:
        average: a copy of the network; it is changed.
        network: as it is now.
        decay: share of the average that is kept at each update, 0..1; 0 makes it a plain copy.
        updates: which update this is; 1 at the first.
    """
    decay = min(decay, (1 + updates) / (10 + updates))
    current = network.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name].to(value.dtype), 1.0 - decay)
        else:
            value.copy_(current[name])


class AveragedWeights:
    """A second copy of a network that trails the trained one; see ``follow``.

    Args:
        network: the network that is trained.
        decay: share of the average that is kept at each update; 0 makes the average a plain copy.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    def update(self, network: nn.Module) -> None:
        """Move the average towards the current weights."""
        self.updates += 1
        follow(self.network, network, self.decay, self.updates)
