"""The demo passes with the shipped models, and says so when something comes out other than expected."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from facekd import cli, demo


class _BlindPipeline:
    """Finds no face anywhere."""

    embedder = SimpleNamespace(contract="0123456789abcdef", dimension=512)

    def analyze(self, image: np.ndarray) -> list[object]:
        assert image.dtype == np.uint8
        return []


def test_the_shipped_models_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["demo", "--out", str(tmp_path / "out"), "--json"]) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["passed"] is True
    assert len(answer["steps"]) == 10
    assert all(step["what"] in captured.err for step in answer["steps"])
    with Image.open(answer["picture"]) as picture:
        assert picture.height == demo.GROUP_HEIGHT
        assert picture.width > picture.height


def test_a_pipeline_that_sees_nobody_fails_every_step_but_the_refusal(tmp_path: Path) -> None:
    told: list[demo.Step] = []
    steps = demo.run_demo(tmp_path / "deep" / "demo.jpg", told.append, _BlindPipeline)  # type: ignore[arg-type]
    assert steps == told
    passed = [step.what for step in steps if step.passed]
    assert passed == ["load detector, embedder and mask head", "refuse to enrol a photograph without a face (a rocket)"]
    assert (tmp_path / "deep" / "demo.jpg").is_file()


def test_a_step_that_fails_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = demo.Step("recognise", "nobody", False, 1.0)
    monkeypatch.setattr(demo, "run_demo", lambda annotated, tell: [step])
    assert cli.run(["demo", "--out", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_portraits_are_small_and_each_one_has_its_origin(portraits: Path) -> None:
    origins = (portraits / "README.md").read_text(encoding="utf-8")
    found = sorted(portraits.glob("*.jpg"))
    assert {path.name for path in found} >= {file for files in demo.ENROLLED.values() for file in files}
    for path in found:
        assert path.stat().st_size < 100_000
        assert f"| {path.name} |" in origins


def test_a_changed_copy_is_smaller_darker_and_another_file() -> None:
    original = demo.portrait("hopper.jpg")
    copy = demo.changed_copy(original)
    assert copy.shape == (360, 307, 3)
    assert copy.mean() < 0.8 * original.mean()


def test_side_by_side_scales_to_one_height() -> None:
    wide, tall = np.zeros((50, 100, 3), np.uint8), np.full((200, 100, 3), 255, np.uint8)
    joined = demo.side_by_side([wide, tall], height=100)
    assert joined.shape == (100, 250, 3)
    assert joined[:, :200].max() == 0
    assert joined[:, 200:].min() == 255
