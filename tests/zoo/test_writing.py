"""What is written is read again: records beside weights, and manifests that models are added to."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from facekd.cli import build_app
from facekd.errors import ConfigError, ModelError
from facekd.zoo import Calibration, FalseMatchCurve, ModelCard, Preprocessing, find_model, load_manifest, read_model
from facekd.zoo.writing import add_model, read_calibration, write_manifest, write_record

CROP = Preprocessing(
    mean=(127.5, 127.5, 127.5), scale=(1 / 127.5, 1 / 127.5, 1 / 127.5), width=112, height=112, template="arcface-112"
)
CARD = ModelCard(recipe="mine", data='"quoted" — photographs\nof two lines', figures={"tar_1e-3": 0.5, "lfw": 0.9})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "best.onnx"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    write_record(path, "embedder", CROP, CARD)
    return path


def test_a_record_makes_weights_a_model(weights: Path) -> None:
    record = find_model(weights)
    assert (record.name, record.task, record.file) == ("best", "embedder", "best.onnx")
    assert record.preprocessing == CROP  # to the last bit of 1 / 127.5
    assert record.card == CARD
    assert read_model(record) == b"weights"


def test_add_then_load(weights: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    curve = {"people": 3, "pairs": 9, "thresholds": {"1e-2": 0.25, "1e-3": 0.5}, "fmr_lower": {"1e-2": 0.005}}
    curve |= {"fmr_upper": {"1e-2": 0.02, "1e-3": 0.002}, "people_pairs": {"1e-2": 12, "1e-3": 0}}
    calibration = Calibration(source="val", masked=FalseMatchCurve(**curve), **curve)
    added = add_model(zoo, find_model(weights), "mine", card={"date": "2026-01-02"}, calibration=calibration)
    manifest = load_manifest(zoo / "manifest.toml")
    assert manifest.defaults == {"embedder": "mine"}
    record = manifest.models["mine"]
    assert record.model_dump() == added.model_dump()
    assert record.card == CARD.model_copy(update={"date": "2026-01-02"})
    assert record.calibration == calibration
    assert read_model(record) == b"weights"
    assert record.contract == find_model(weights).contract  # same weights, same preprocessing: templates stay usable
    assert sorted(p.name for p in zoo.iterdir()) == ["manifest.toml", "mine.onnx"]


def test_a_second_model_can_stay_in_the_background_and_a_name_can_be_replaced(weights: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    add_model(zoo, find_model(weights), "first")
    add_model(zoo, find_model(weights), "second", default=False)
    assert load_manifest(zoo / "manifest.toml").defaults == {"embedder": "first"}
    weights.write_bytes(b"better")
    write_record(weights, "embedder", CROP, CARD)
    add_model(zoo, find_model(weights), "second")
    manifest = load_manifest(zoo / "manifest.toml")
    assert manifest.defaults == {"embedder": "second"}
    assert read_model(manifest.models["second"]) == b"better"
    assert read_model(manifest.models["first"]) == b"weights"


def test_the_packaged_manifest_survives_being_written_again(tmp_path: Path) -> None:
    manifest = load_manifest()
    write_manifest(manifest, tmp_path / "manifest.toml")
    again = load_manifest(tmp_path / "manifest.toml")
    assert again.model_dump() == manifest.model_dump()


def test_a_calibration_of_the_command_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "calibration.toml"
    path.write_text('[models.any.calibration]\nsource = "val"\n[models.any.calibration.thresholds]\n"1e-3" = 0.4\n')
    assert read_calibration(path) == Calibration(source="val", thresholds={"1e-3": 0.4})
    for wrong in ("", "not toml [", "[models.a.calibration]\ncolour = 3\n"):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match="calibration"):
            read_calibration(path)


def test_the_command_adds_a_model(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEKD_ZOO", str(tmp_path / "zoo"))
    command = ["zoo", "add", str(weights), "--name", "mine", "--figure", "lfw=0.97", "--card", "notes=a=b", "--json"]
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 0, result.output
    card = load_manifest().models["mine"].card
    assert card.figures == {"lfw": 0.97}  # figures given replace those of the record
    assert card.notes == "a=b"
    assert card.recipe == "mine"
    before = load_manifest()
    for wrong in ("lfw=high", "lfw=nan", "lfw=-inf", "lfw=1e400"):
        assert CliRunner().invoke(build_app(), [*command[:5], "--figure", wrong]).exit_code == 2, wrong
    for wrong in ("parameters=abc", "notes=a\x7fb", "notes=\udce9"):
        result = CliRunner().invoke(build_app(), [*command[:5], "--card", wrong])
        assert result.exit_code == 2, wrong
    assert load_manifest() == before


def test_what_toml_cannot_hold_replaces_neither_manifest_nor_weights(weights: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    add_model(zoo, find_model(weights), "mine")
    weights.write_bytes(b"better")
    write_record(weights, "embedder", CROP, CARD)
    with pytest.raises(ConfigError, match="TOML"):
        add_model(zoo, find_model(weights), "mine", card={"notes": "a\x7fb"})
    assert read_model(load_manifest(zoo / "manifest.toml").models["mine"]) == b"weights"


def test_figures_of_a_training_that_failed_are_read_again(weights: Path) -> None:
    write_record(weights, "embedder", CROP, ModelCard(figures={"tar": float("nan"), "loss": float("-inf")}))
    figures = find_model(weights).card.figures
    assert figures["tar"] != figures["tar"]
    assert figures["loss"] == float("-inf")


def test_faults(weights: Path, tmp_path: Path) -> None:
    record = find_model(weights)
    with pytest.raises(ConfigError, match="no name"):
        add_model(tmp_path / "zoo", record, "../escape")
    with pytest.raises(ConfigError, match="task"):
        add_model(tmp_path / "zoo", record, "detector")
    with pytest.raises(ConfigError, match=r"parameters: .* integer"):
        add_model(tmp_path / "zoo", record, "mine", card={"parameters": "abc"})
    with pytest.raises(ConfigError, match="colour"):
        add_model(tmp_path / "zoo", record, "mine", card={"colour": "red"})
    weights.write_bytes(b"damaged")
    with pytest.raises(ModelError, match="damaged"):
        add_model(tmp_path / "zoo", record, "mine")
    assert not (tmp_path / "zoo").exists()
    with pytest.raises(ModelError, match="cannot read"):
        write_record(tmp_path / "absent.onnx", "embedder", CROP, CARD)
