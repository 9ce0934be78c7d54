"""`facekd evaluate` and `bench` from the command line to the networks, with models that see painted faces."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekd import cli
from facekd.bench import speed as speed_module
from facekd.bench.timing import measure
from facekd.runtime import Session

pytestmark = pytest.mark.usefixtures("fake_zoo")


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = cli.run([*arguments, "--json", "--threads", "1"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_detection(tmp_path: Path, paint_face: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test").mkdir()
    unknown = "-1 -1 -1 " * 5
    lines = []
    for number, (left, top, side) in enumerate([(20, 30, 60), (100, 40, 40), (50, 50, 80)]):
        image = np.full((200, 240, 3), 128, np.uint8)
        paint_face(image, left, top, side, person=number)
        Image.fromarray(image).save(tmp_path / "test" / f"{number}.png")
        lines.append(f"# {number}.png 240 200\n{left} {top} {side} {side} {unknown}1\n")
    Image.fromarray(np.full((200, 240, 3), 128, np.uint8)).save(tmp_path / "test" / "3.png")
    lines.append("# 3.png 240 200\n")
    (tmp_path / "test.txt").write_text("".join(lines))
    figures = answer(capsys, "evaluate", "detection", str(tmp_path))
    assert figures["ap"] == 1.0
    assert (figures["images"], figures["faces"], figures["score_threshold"]) == (4, 3, 0.5)
    assert figures["at_threshold"]["photographs_without_faces"] == 1
    assert answer(capsys, "evaluate", "detection", str(tmp_path), "--all-views")["ap"] == 1.0
    coco = {
        "images": [{"id": 0, "file_name": "0.png"}],
        "annotations": [{"image_id": 0, "bbox": [20, 30, 60, 60], "category_id": 1}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    other = answer(capsys, "evaluate", "detection", str(tmp_path / "test"), "--labels", str(tmp_path / "coco.json"))
    assert (other["ap"], other["images"], other["faces"]) == (1.0, 1, 1)
    compared = answer(capsys, "bench", "detection", str(tmp_path), "--rounds", "1")
    assert compared["figures"]["ours"]["ap"] == 1.0
    assert set(compared["times"]) == {"ours", "ours, all views"}


def test_lfw(tmp_path: Path, paint_face: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "lfw"
    for person, name in enumerate(("Ada", "Bob", "Cy")):
        (folder / name).mkdir(parents=True)
        for number in (1, 2):
            image = np.full((250, 250, 3), 128, np.uint8)
            paint_face(image, 80 + 5 * number, 70, 90, person=person)
            Image.fromarray(image).save(folder / name / f"{name}_{number:04d}.png")
    (folder / "pairs.txt").write_text(
        "2\t2\nAda\t1\t2\nBob\t1\t2\nAda\t1\tBob\t2\nBob\t1\tCy\t1\nCy\t1\t2\nAda\t1\t2\nCy\t1\tAda\t2\nBob\t2\tAda\t1\n"
    )
    figures = answer(capsys, "evaluate", "lfw", str(folder), "--mode", "whole")
    assert (figures["accuracy"], figures["undetected"], figures["pairs"]) == (1.0, 0, 8)
    assert list(figures["interval"]) == ["accuracy", "1e-2", "1e-3"]
    assert cli.run(["evaluate", "lfw", str(folder)]) == 3  # no landmarks.csv: said, with what to do
    assert "--mode whole" in capsys.readouterr().err


def test_mask(tmp_path: Path, paint_face: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "mask.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["shard", "file", "label", "split"])
        for number, label in enumerate(("none", "mask", "incorrect")):
            crop = np.zeros((112, 112, 3), np.uint8)
            paint_face(crop, 0, 0, 112, mask=label)
            Image.fromarray(crop).save(tmp_path / f"{number}.png")
            writer.writerow([".", f"{number}.png", label, "test"])
    figures = answer(capsys, "evaluate", "mask", str(tmp_path))
    assert figures["accuracy"] == 1.0
    assert figures["recall"] == {"none": 1.0, "mask": 1.0, "incorrect": 1.0}
    assert cli.run(["evaluate", "mask", str(tmp_path)]) == 0
    assert "incorrect" in capsys.readouterr().out


def test_speed(
    paint_face: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def painted() -> np.ndarray:
        image = np.full((480, 640, 3), 128, np.uint8)
        paint_face(image, 223, 78, 120)
        return image

    # A clock that the machine cannot disturb: it stands nearly still except while networks run.
    seconds = 0.0
    run = Session.run

    def counted(session: Session, feeds: Any) -> Any:
        nonlocal seconds
        seconds += 1.0
        return run(session, feeds)

    def clock() -> float:
        nonlocal seconds
        seconds += 1e-3
        return seconds

    monkeypatch.setattr(speed_module, "example_photograph", painted)
    monkeypatch.setattr(Session, "run", counted)
    monkeypatch.setattr(speed_module, "measure", partial(measure, clock=clock))
    times = answer(capsys, "bench", "speed", "--rounds", "2")
    assert list(times["stages"]) == list(speed_module.STAGES)
    assert times["faces"] == 1
    stages = {name: timing["median_ms"] for name, timing in times["stages"].items()}
    assert all(value > 0 for value in stages.values())
    assert stages["whole"] > stages["detect"]
