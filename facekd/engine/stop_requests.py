"""Being asked to stop: the step in progress ends, a checkpoint is written, then the process leaves as it was told."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; the end of a time slot, a container or a machine


class StopRequests:
    """Notes SIGINT and SIGTERM while it is entered; the second one ends the process at once.

    Outside the main thread Python hears no signals: nothing is noted there.

    Attributes:
        signal: number of the one that came; 0 before.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal:
            leave(number)
        self.signal = number


def leave(number: int) -> NoReturn:
    """End as the signal would have: exit code 128 + its number.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: for others.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
