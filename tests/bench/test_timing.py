"""Times: medians of rounds in turns."""

from __future__ import annotations

import pytest

from facekd.bench.timing import measure


def test_rounds_are_in_turns_and_warm_up_does_not_count() -> None:
    calls: list[str] = []
    now = 0.0

    def stage(name: str, seconds: list[float]) -> None:
        nonlocal now
        calls.append(name)
        now += seconds[calls.count(name) - 1]

    slow, fast = [9.0, 1.0, 5.0, 2.0], [9.0, 0.1, 0.1, 0.1]
    times = measure(
        {"slow": lambda: stage("slow", slow), "fast": lambda: stage("fast", fast)}, 3, warm_up=1, clock=lambda: now
    )
    assert calls == ["slow", "fast"] * 4
    assert times["slow"].median_ms == pytest.approx(2000)
    assert times["fast"].median_ms == pytest.approx(100)
    assert times["slow"].low_ms == pytest.approx(1200)
    assert times["slow"].high_ms == pytest.approx(4400)
    assert times["slow"].rounds == 3


def test_no_rounds() -> None:
    with pytest.raises(ValueError, match="at least one"):
        measure({}, 0)
    assert measure({}, 1) == {}
