"""Recipes: every packaged one is valid, faults are named, overrides are TOML."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from facekd.cli.train import STAGES, stage_of
from facekd.engine.settings import (
    TrainingSettings,
    find_recipe,
    parse_recipe,
    read_toml,
    set_value,
    weights_file,
)
from facekd.errors import ConfigError
from facekd.zoo import find_model

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


def test_a_recipe_that_is_not_where_the_path_says_is_not_the_packaged_one(tmp_path: Path) -> None:
    name = RECIPES[0].name
    assert find_recipe(name).samefile(RECIPES[0])
    with pytest.raises(ConfigError, match="No recipe"):
        find_recipe(tmp_path / "edited" / name)
    with pytest.raises(ConfigError, match="No recipe"):
        find_recipe(f"edited/{RECIPES[0].stem}")


@pytest.mark.parametrize("name", ["detector-mobile", "refiner", "mask-status", "embedder-dense"])
def test_only_the_embedder_takes_the_switch_that_compiles(name: str) -> None:
    pytest.importorskip("torch")
    path = find_recipe(name)
    table = read_toml(path, ["training.compile=true"])
    stage = importlib.import_module(stage_of(table, path))
    if name == "embedder-dense":
        assert parse_recipe(stage.Recipe, table, path).training.compile
    else:
        with pytest.raises(ConfigError, match="compile = true is for the embedder only"):
            parse_recipe(stage.Recipe, table, path)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_a_generator_would_refuse_is_refused_by_name(seed: int) -> None:
    with pytest.raises(ConfigError, match="seed: Input should be"):
        parse_recipe(TrainingSettings, {"steps": 1, "learning_rate": 1.0, "seed": seed})


def test_weights_to_start_from_are_a_file_or_a_model_of_the_zoo(tmp_path: Path) -> None:
    assert weights_file("mine.onnx") == Path("mine.onnx")
    assert weights_file("mask-status") == find_model("mask-status").path
    (tmp_path / "weights").touch()
    assert weights_file(tmp_path / "weights") == tmp_path / "weights"
    with pytest.raises(ConfigError, match="no model"):
        weights_file(tmp_path / "missing")


def test_a_value_where_a_section_is_wanted_is_no_mistake_in_facekd() -> None:
    with pytest.raises(ConfigError, match="mask-status: 'network' is a value in this recipe, not a section"):
        set_value({"network": 5}, "network.init", "x.onnx", "mask-status")


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
