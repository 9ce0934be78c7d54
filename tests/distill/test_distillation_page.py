"""docs/distillation.md: every method has its section, and every switch on the page is one that the toolkit takes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from facekd.distill.methods import METHODS, find_method, method_options
from facekd.distill.settings import DistillSettings, MixSettings, Term
from facekd.distill.views import StrongView

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
    assert "`" in section.partition("```toml")[0]
    assert "\nErrors: " in section


def test_every_block_is_valid() -> None:
    for block in BLOCKS:
        table = tomllib.loads(block)
        DistillSettings.model_validate(table.get("distill", table))


def test_the_switches_of_schedules_and_arrangements_are_taken() -> None:
    section = PAGE.split("## Schedules and arrangements")[1].split("\n## ")[0]
    switches = {}
    for text in re.findall(r"`((?:options|weight|task_weight|view|mix|sample_weights) = [^`]+)`", section):
        switches |= tomllib.loads(text)
    term = {key: switches[key] for key in ("options", "weight", "sample_weights")}
    assert Term.model_validate({"method": "kl", **term}).weight.shape == "cosine"
    assert DistillSettings.model_validate({"task_weight": switches["task_weight"]}).task_weight.at(0.1) == 0.0
    assert MixSettings.model_validate(switches["mix"]).kind == "cutmix"
    assert StrongView.model_validate(switches["view"]).noise == 0.03
