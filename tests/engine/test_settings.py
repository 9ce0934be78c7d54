"""Recipes: every packaged one is valid, faults are named, overrides are TOML."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from facekd.cli.train import STAGES, stage_of
from facekd.engine.settings import TrainingSettings, find_recipe, parse_recipe, read_toml
from facekd.errors import ConfigError

RECIPES = sorted(Path(__file__).resolve().parents[2].joinpath("facekd", "recipes").glob("*.toml"))


TRAINED = [path for path in RECIPES if read_toml(path).get("kind") != "compare"]  # tests/distill has the others


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_every_packaged_recipe_is_valid(path: Path) -> None:
    pytest.importorskip("torch")
    table = read_toml(path)
    stage = importlib.import_module(stage_of(table, path))
    assert parse_recipe(stage.Recipe, table, path).kind in STAGES


def test_there_are_recipes_and_they_are_found_by_name() -> None:
    assert RECIPES
    assert find_recipe(RECIPES[0].stem).samefile(RECIPES[0])
    assert find_recipe(RECIPES[0]).samefile(RECIPES[0])


def test_an_unknown_recipe_lists_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=RECIPES[0].stem):
        find_recipe("no-such-recipe")


def test_an_unknown_key_lists_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"learning_rat.*learning_rate"):
        parse_recipe(TrainingSettings, {"steps": 1, "learning_rate": 1.0, "learning_rat": 1.0})


@pytest.mark.parametrize(
    ("override", "expected"),
    [("a.b=3", 3), ("a.b=[1, 2]", [1, 2]), ("a.b=0.5", 0.5), ("a.b=text", "text"), ('a.b="3"', "3"), ("a.b=", "")],
)
def test_overrides(tmp_path: Path, override: str, expected: object) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[a]\nb = 1\n")
    assert read_toml(path, [override])["a"]["b"] == expected


@pytest.mark.parametrize("override", ["novalue", "=3", "a.b.c=3"])
def test_bad_overrides(tmp_path: Path, override: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[a]\nb = 1\n")
    with pytest.raises(ConfigError, match="--set"):
        read_toml(path, [override])


@pytest.mark.parametrize("text", [b"not toml [", b"\xff\xfe"])
def test_unreadable_recipe(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=r"recipe\.toml"):
        read_toml(path)
