"""Parts of a network that stay as they are while the rest learns."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from facekd.errors import ConfigError


class FrozenParts:
    """Parts that neither learn nor count in their BatchNorm statistics for the first share of a schedule.

    The optimiser knows their parameters all the same, and passes over them as long as they have no gradients; so the
    same run can go on with all of the network.

    Args:
        network: holds them.
        names: theirs, as ``network.get_submodule`` takes them.
        thaw: share of the schedule from which they learn; 1 for never.

    Raises:
        ConfigError: the network has no such part.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], thaw: float) -> None:
        known = {name: part for name, part in network.named_modules() if name}
        if unknown := [name for name in names if name not in known]:
            short = [name for name in known if name.count(".") < 2]
            raise ConfigError(f"network.frozen: the student has no part {unknown[0]!r}; it has {', '.join(short)}")
        self._parts = [known[name] for name in names]
        self._thaw = thaw

    def hold(self, progress: float) -> None:
        """Before each forward pass of a step: the engine has put all of the network into training mode."""
        frozen = progress < self._thaw
        for part in self._parts:
            part.requires_grad_(not frozen)
            if frozen:
                part.eval()
