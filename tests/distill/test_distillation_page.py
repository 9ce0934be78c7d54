"""docs/distillation.md: every method has its section, and every switch on the page is one that the toolkit takes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from facekd.cli import build_app
from facekd.detection.network import RetinaFace
from facekd.detection.train import ARCHITECTURES
from facekd.distill.distiller import Distiller
from facekd.distill.methods import METHODS, find_method, method_options
from facekd.distill.settings import DistillSettings, MixSettings, Term
from facekd.distill.teachers import TorchTeacher
from facekd.distill.views import StrongView
from facekd.engine.settings import find_recipe
from facekd.recognition.mask_networks import MASK_NETWORKS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "distillation.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
BLOCKS = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_method_has_a_section_and_every_section_is_a_method() -> None:
    assert set(SECTIONS) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_section_has_formula_switch_and_errors(name: str) -> None:
    section = SECTIONS[name]
    (block,) = re.findall(r"^```toml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    (term,) = tomllib.loads(block)["terms"]
    assert Term.model_validate(term).method == name
    assert set(term.get("options", {})) <= set(method_options(find_method(name)))
    prose = section.partition("```toml")[0]
    assert "`" in prose
    assert re.search(r"\b[Hh]elps\b", prose)  # when
    assert "\nErrors: " in section


@pytest.mark.parametrize("name", [name for name in METHODS if re.search(r'student = \[?"(?!output)', SECTIONS[name])])
def test_the_layers_that_a_switch_taps_are_those_of_our_networks(name: str) -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```$", SECTIONS[name], re.MULTILINE | re.DOTALL)
    term = Term.model_validate(tomllib.loads(block)["terms"][0])
    small = {"widths": (16, 16, 24, 24), "blocks": (1, 1, 1, 1)}
    student, teacher, side = (
        (RetinaFace(), ARCHITECTURES["retinaface"](), 64)
        if name == "local"
        else (MASK_NETWORKS["mask_network"](), MASK_NETWORKS["resnet"](**small), 112)
    )
    Distiller(student, {"large": TorchTeacher(teacher)}, [term], torch.zeros(2, 3, side, side))


def test_every_block_is_valid() -> None:
    for block in BLOCKS:
        table = tomllib.loads(block)
        DistillSettings.model_validate(table.get("distill", table))


def test_the_switches_of_schedules_and_arrangements_are_taken() -> None:
    section = _schedules()
    switches = {}
    for text in re.findall(r"`((?:options|weight|task_weight|view|mix|sample_weights) = [^`]+)`", section):
        switches |= tomllib.loads(text)
    term = {key: switches[key] for key in ("options", "weight", "sample_weights")}
    assert Term.model_validate({"method": "kl", **term}).weight.shape == "cosine"
    assert DistillSettings.model_validate({"task_weight": switches["task_weight"]}).task_weight.at(0.1) == 0.0
    assert MixSettings.model_validate(switches["mix"]).kind == "cutmix"
    assert StrongView.model_validate(switches["view"]).noise == 0.03


def _schedules() -> str:
    return PAGE.split("## Schedules and arrangements")[1].split("\n## ")[0]


def test_every_schedule_and_arrangement_has_formula_use_switch_and_errors() -> None:
    rows = [line.strip("|").split(" | ") for line in _schedules().splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 13
    for row in rows:
        what, formula, helps, switch, _ = (cell.strip(" |") for cell in row)
        assert all((what, formula, helps)), what
        assert "`" in switch, what
    errors = _schedules().split("Errors, in the same order:")[1]
    assert len(re.findall("^- ", errors, re.MULTILINE)) >= 10


def test_commands_and_options_on_the_page_exist() -> None:
    commands = re.findall(r"^facekd (distill \w+|bench \w+|train) (.*)$", PAGE, re.MULTILINE)
    commands += [(f"distill {name}", "") for name in re.findall(r"`facekd distill (\w+)", PAGE)]
    root = typer.main.get_command(build_app())
    assert len(commands) >= 5
    for words, rest in commands:
        command: Any = root
        for word in words.split():
            command = command.commands[word]
        known = {option for item in command.params for option in item.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known, words
    compare = root.commands["distill"].commands["compare"]
    comparing = PAGE.split("## Comparing methods")[1].split("\n## ")[0].replace("facekd bench mask", "")
    options = {option for item in compare.params for option in item.opts}
    assert set(re.findall(r"`(--[\w-]+)", comparing)) <= options


def test_the_recipes_that_the_page_names_exist() -> None:
    for name in re.findall(r"^facekd (?:train|distill compare) (\S+)", PAGE, re.MULTILINE):
        assert find_recipe(name).is_file()
