"""The page from photographs to a shipped model: its commands exist, those with a prefix too; its recipes are valid."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from facekd.cli import build_app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "train-your-own.md"
TEXT = PAGE.read_text(encoding="utf-8")


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The words after `facekd` of each command in a console block."""
    lines = [line for block in fenced("console") for line in block.splitlines()]
    found = [re.fullmatch(r"(?:[A-Z_]+=\S+ )*facekd (.*)", line) for line in lines]
    return [shlex.split(match[1]) for match in found if match]


COMMANDS = commands()


def test_every_step_has_its_command() -> None:
    steps = [" ".join(words[:2]) if words[0] in ("evaluate", "zoo", "bench") else words[0] for words in COMMANDS]
    order = ["prepare", "import-teacher", "train", "evaluate crops", "evaluate lfw", "calibrate", "zoo add", "enroll"]
    assert [step for step in dict.fromkeys(steps) if step in order] == order
    assert any("--screen" in words for words in COMMANDS)
    assert any("--resume" in words for words in COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_and_options_exist(words: list[str]) -> None:
    command: Any = typer.main.get_command(build_app())
    rest = list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    assert not hasattr(command, "commands"), f"facekd has no {words}"
    known = {name for item in command.params for name in (*item.opts, *item.secondary_opts)}
    assert {word for word in rest if word.startswith("--")} <= known


def settings(words: list[str]) -> list[str]:
    return [after for before, after in pairwise(words) if before == "--set"]


def test_recipes_take_every_setting_of_the_page() -> None:
    pytest.importorskip("torch")
    from facekd.engine.settings import find_recipe, parse_recipe, read_toml
    from facekd.recognition.train import Recipe

    recipes = {words[1]: settings(words) for words in COMMANDS if words[0] == "train"}
    assert recipes
    inline = [setting for code in re.findall(r"`(--set [^`]+)`", TEXT) for setting in settings(shlex.split(code))]
    assert len(inline) >= 4
    for name, given in recipes.items():
        path = find_recipe(name)
        parse_recipe(Recipe, read_toml(path, [*given, *inline]), path)
    for name in re.findall(r"`(embedder-\w+)`", TEXT):
        find_recipe(name)
    launcher = re.findall(r'"--set", "([^"]+)"', "".join(fenced("python")))
    assert launcher
    parse_recipe(Recipe, read_toml(find_recipe("embedder-ir100"), launcher))


def test_the_script_of_a_teacher_that_is_no_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dlib and its weights are stood in for: what the script hands over, and what training reads."""
    cv2, np = pytest.importorskip("cv2"), pytest.importorskip("numpy")
    from facekd.recognition.align import TEMPLATE
    from facekd.recognition.data.stored_teacher import read_teacher

    seen: list[Any] = []

    class Network:
        def __init__(self, weights: str) -> None:
            assert Path(weights).read_bytes() == b"weights"

        def compute_face_descriptor(self, chips: list[Any]) -> list[list[float]]:
            seen.extend(chips)
            return [[float(chip.mean()), *[1.0] * 127] for chip in chips]

    models = tmp_path / "packages" / "face_recognition_models" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise RuntimeError('not to be imported: it needs pkg_resources')")
    (models / "dlib_face_recognition_resnet_model_v1.dat").write_bytes(b"weights")
    monkeypatch.syspath_prepend(models.parents[1])
    monkeypatch.setitem(sys.modules, "dlib", SimpleNamespace(face_recognition_model_v1=Network))
    shards = tmp_path / "shards"
    for number in range(3):
        crop = np.full((112, 112, 3), 40 * number, np.uint8)
        for x, y in TEMPLATE:
            cv2.circle(crop, (round(float(x)), round(float(y))), 2, (255, 255, 255), -1)
        path = shards / f"p{number}" / "0.png"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), crop)
    monkeypatch.setattr(sys, "argv", ["dlib_teacher.py", str(shards)])
    (script,) = [code for code in fenced("python") if "dlib" in code]
    exec(compile(script, str(PAGE), "exec"), {"__name__": "__main__"})

    assert [chip.shape for chip in seen] == [(150, 150, 3)] * 3
    middle = cv2.connectedComponentsWithStats((seen[0][..., 0] > 128).astype(np.uint8))[3][1:]
    # Eyes and the lower landmarks of dlib's mean face in its chip, as its source has them, eyebrows left out.
    wanted = 150 * (0.25 + np.array([[0.225, 0.216], [0.755, 0.216], [0.490, 0.516], [0.254, 0.780], [0.726, 0.780]]))
    apart = np.linalg.norm(middle[:, None] - wanted[None] / 1.5, axis=2)
    assert apart.min(axis=1).max() < 3.5  # five points fit a similarity only so far
    stored = read_teacher(shards, "dlib", 3)
    assert stored.shape == (3, 128)
    assert (shards / "teacher_dlib.json").is_file()  # so that other crops are refused


def test_the_recipes_part_on_the_page_is_valid() -> None:
    pytest.importorskip("torch")
    from facekd.distill.settings import DistillSettings

    (part,) = fenced("toml")
    found = DistillSettings.model_validate(tomllib.loads(part)["distill"])
    assert list(found.teachers) == ["r50"]
    assert [term.method for term in found.terms] == ["cosine", "similarity"]
