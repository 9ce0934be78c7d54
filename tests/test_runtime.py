"""Sessions: threads, names, errors that say what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facekd import runtime
from facekd.errors import ConfigError, ModelError
from facekd.runtime import MOST_THREADS, SessionOptions, open_model, open_session, set_default_threads
from facekd.zoo import find_model, read_model


@pytest.fixture(autouse=True)
def _restore_threads(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(runtime, "_default_threads", 0)
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


def test_runs_and_names(fake_zoo: Path) -> None:
    session = open_session(find_model("mask"), threads=1)
    assert (session.inputs, session.outputs) == (("face",), ("logits",))
    assert session.output_shapes == ((None, 3),)
    (logits,) = session.run({"face": np.zeros((2, 3, 112, 112), np.float32)})
    assert logits.shape == (2, 3)
    assert open_session(read_model(find_model("mask"))).outputs == ("logits",)


@pytest.mark.parametrize(("own", "default", "used"), [(0, 0, 0), (3, 0, 3), (0, 2, 2), (3, 2, 3)])
def test_threads(fake_zoo: Path, own: int, default: int, used: int) -> None:
    set_default_threads(default)
    session = open_session(find_model("mask"), threads=own)
    assert session._session.get_session_options().intra_op_num_threads == used
    if default:
        assert cv2.getNumThreads() == default


@pytest.mark.parametrize("threads", [-1, MOST_THREADS + 1, 100_000, 1.5, float("nan"), "2", None])
def test_no_number_of_threads(threads: Any) -> None:
    calls = (SessionOptions, set_default_threads, lambda number: open_session(b"", threads=number))
    for call in calls:
        with pytest.raises(ConfigError, match=rf"threads must be a whole number .* got {re.escape(repr(threads))}"):
            call(threads)


def test_numbers_of_threads() -> None:
    assert MOST_THREADS >= 256
    for threads in (0, 1, MOST_THREADS, np.int64(2)):
        assert SessionOptions(threads).threads == threads


def test_bad_models_and_inputs(fake_zoo: Path) -> None:
    with pytest.raises(ModelError, match="cannot load"):
        open_session(b"not an ONNX file")
    session = open_session(find_model("mask"))
    with pytest.raises(ModelError, match=r"fake-mask.*\(1, 3, 50, 50\)"):
        session.run({"face": np.zeros((1, 3, 50, 50), np.float32)})
    with pytest.raises(ConfigError, match=r"'mask'.*'embedder'"):
        open_model("mask", "embedder", ("embedding",))
    with pytest.raises(ModelError, match="embedding"):
        open_model("mask", "mask", ("embedding",))
