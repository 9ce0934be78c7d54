"""Taps: what a named layer of a network gives, caught by a hook while the network runs as usual.

A tap's name is the path of a submodule (`body.2`, as `named_modules` writes it), `output` for what the network gives,
or `input` for what it is given.
`:KEY` picks from an answer of several parts: an index of a tuple or list, a key of a dictionary, or, for a module that
runs several times in one pass (a head shared by levels), the number of the call. `output:1` is the second output.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from facekd.errors import ConfigError

OUTPUT = "output"
INPUT = "input"


class Captured:
    """What one pass of a network gave at its taps."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._calls: dict[str, list[Any]] = {}
        self._versions: dict[str, list[tuple[Tensor, int]]] = {}

    def record(self, path: str, value: Any) -> None:
        """Keep one call's answer, and how often each of its tensors had been written to by then."""
        self._calls.setdefault(path, []).append(value)
        self._versions.setdefault(path, []).extend((part, part._version) for part in _parts(value))

    def __getitem__(self, tap: str) -> Tensor:
        """The tensor of a tap.

        Raises:
            ConfigError: the layer did not run, gave no tensor, gave several and none was picked, or its answer was
                overwritten in place by a later layer.
        """
        path, _, key = tap.partition(":")
        calls = self._calls.get(path)
        if not calls:
            raise ConfigError(f"the {self.owner}'s tap {tap!r} gave nothing: that layer did not run in this pass")
        value: Any = calls[0] if len(calls) == 1 else calls
        if key:
            value = _pick(value, key, tap, self.owner)
        if not isinstance(value, Tensor):
            parts = sorted(value) if isinstance(value, Mapping) else list(range(len(value)))
            raise ConfigError(
                f"the {self.owner}'s tap {tap!r} gives {len(parts)} parts; pick one, as {path}:{parts[0]}"
            )
        if any(value is part and version != value._version for part, version in self._versions[path]):
            raise ConfigError(
                f"the {self.owner}'s tap {tap!r} was overwritten in place by the next layer (an inplace activation?); "
                "tap that layer instead"
            )
        return value


def _parts(value: Any) -> Iterator[Tensor]:
    """The tensors of an answer; those of inference mode count no writes."""
    if isinstance(value, Tensor):
        if not value.is_inference():
            yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _parts(part)


def _pick(value: Any, key: str, tap: str, owner: str) -> Any:
    try:
        return value[key] if isinstance(value, Mapping) else value[int(key)]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        parts = (
            sorted(value) if isinstance(value, Mapping) else range(len(value)) if isinstance(value, Sequence) else []
        )
        raise ConfigError(f"the {owner}'s tap {tap!r} has no part {key!r}; it has {list(parts)}") from error


def check_taps(network: nn.Module, taps: Sequence[str], owner: str) -> None:
    """Raise ConfigError for a tap whose layer the network does not have; the message names close ones."""
    paths = dict(network.named_modules())
    for tap in taps:
        path = tap.partition(":")[0]
        if path not in paths and path not in (OUTPUT, INPUT):
            close = difflib.get_close_matches(path, list(paths), n=3, cutoff=0.3) or list(paths)[1:6]
            raise ConfigError(f"the {owner} has no layer {path!r} to tap; close names: {', '.join(close)}, {OUTPUT}")


def is_inner(tap: str) -> bool:
    """Whether a tap lies inside the network: neither what it is given nor what it gives."""
    return tap.partition(":")[0] not in (OUTPUT, INPUT)


@contextmanager
def watch(
    network: nn.Module, taps: Sequence[str], owner: str = "network", called: nn.Module | None = None
) -> Iterator[Captured]:
    """Catch what the taps give while the network runs inside the block.

    Args:
        network: whose layers are tapped.
        taps: names; see the module's text.
        owner: what messages call the network.
        called: what is called in the network's place: the callable that `torch.compile` made of it. Compiled code runs
            without the hooks of the modules inside it, so `input` and `output` are caught at this callable.

    Example:
        >>> with watch(network, ["body.1", "output"]) as seen:
        ...     loss = task_loss(network(pictures))
        >>> features = seen["body.1"]

    Raises:
        ConfigError: a tap names a layer that the network does not have, or one inside a compiled network.
    """
    check_taps(network, taps, owner)
    outer = network if called is None else called
    if outer is not network and (inner := [tap for tap in taps if is_inner(tap)]):
        raise ConfigError(
            f"the {owner} is compiled into one piece, so its layer {inner[0]!r} cannot be tapped: set "
            "training.compile = false, or tap 'output'"
        )
    captured = Captured(owner)
    modules = dict(network.named_modules())
    handles = []
    for path in dict.fromkeys(tap.partition(":")[0] for tap in taps):

        def keep(_module: nn.Module, _inputs: Any, output: Any, path: str = path) -> None:
            captured.record(path, output)

        def keep_input(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            captured.record(INPUT, inputs[0])

        if path == INPUT:
            handles.append(outer.register_forward_pre_hook(keep_input))
        else:
            handles.append((outer if path == OUTPUT else modules[path]).register_forward_hook(keep))
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()
