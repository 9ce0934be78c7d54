"""Muon: momentum whose matrices are made orthogonal, so that a step moves all directions of a layer alike.

K. Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale of a step, which lets it
share AdamW's learning rate and weight decay, is that of J. Liu et al. 2025, "Muon is scalable for LLM training",
section 2.2. torch.optim.Muon takes matrices only and computes in bf16, which many processors have to emulate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

LEAST_INPUTS = 16  # a layer on fewer channels (a stem, a depthwise convolution) is no matrix worth the name
ROUNDS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: singular values land in 0.7..1.2 after five rounds
ADAMW_SIZE = 0.2  # root mean square of AdamW's usual updates


def hidden_matrices(network: nn.Module) -> list[Tensor]:
    """The weights of a network that Muon is meant for: of linear layers and of convolutions over many channels."""
    return [
        parameter
        for module in network.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and (parameter := module.weight).requires_grad
        and parameter.shape[1] >= LEAST_INPUTS
    ]


def orthogonalised(matrix: Tensor) -> Tensor:
    """Near the closest matrix (M, N) with orthonormal rows or columns, by Newton and Schulz's iteration in float32.

    Singular values are brought to about 1, not exactly: that is enough for a step.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.float().T if tall else matrix.float()
    x = x / (x.norm() + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(AdamW):
    """Muon for the parameters in ``hidden``, AdamW for all others; one learning rate serves both.

    Args:
        groups: parameter groups as AdamW takes them.
        hidden: the parameters that Muon moves, members of the groups; convolutions count as (outputs, rest) matrices.
        lr: learning rate.
        momentum: share of the momentum that a step keeps (Nesterov's form).
    """

    def __init__(
        self, groups: list[dict[str, Any]], hidden: Iterable[Tensor], *, lr: float, momentum: float = 0.95
    ) -> None:
        chosen = {id(parameter) for parameter in hidden}
        split: list[dict[str, Any]] = []
        for group in groups:
            for muon in (False, True):
                members = [p for p in group["params"] if (id(p) in chosen) is muon]
                if members:
                    split.append({**group, "params": members, "muon": muon, "momentum": momentum})
        super().__init__(split, lr=lr)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step, as every optimiser takes it."""
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["muon"]]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                for parameter in group["params"]:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
        momentum = state["momentum"]
        momentum.lerp_(gradient, 1.0 - group["momentum"])
        ahead = gradient.lerp(momentum, group["momentum"]).reshape(parameter.shape[0], -1)
        size = ADAMW_SIZE * max(ahead.shape) ** 0.5
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonalised(ahead).reshape(parameter.shape), alpha=-group["lr"] * size)
