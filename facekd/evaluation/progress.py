"""How long-running evaluations show how far they are, without knowing who watches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Passes items through and shows how far it is; the command line's bar is one."""

    def __call__(self, items: Iterable[Item], description: str) -> Iterator[Item]:
        """Iterate over items; `description` says what is being done."""


def silently(items: Iterable[Item], description: str) -> Iterator[Item]:  # noqa: ARG001
    """A `Progress` that shows nothing."""
    yield from items
