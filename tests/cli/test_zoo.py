"""`facekd zoo` on a small zoo of its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from facekd import cli


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo with one good model and one whose weights were changed."""
    face = helper.make_tensor_value_info("face", TensorProto.FLOAT, ["N", 3, 112, 112])
    copy = helper.make_tensor_value_info("copy", TensorProto.FLOAT, ["N", 3, 112, 112])
    graph = helper.make_graph([helper.make_node("Identity", ["face"], ["copy"])], "copy", [face], [copy])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content = model.SerializeToString()
    digest = hashlib.sha256(content).hexdigest()
    onnx.checker.check_model(model)
    tables = []
    for name, task in (("good", "mask"), ("changed", "embedder")):
        (tmp_path / f"{name}.onnx").write_bytes(content if name == "good" else content + b"\0")
        tables.append(
            f'[models.{name}]\ntask = "{task}"\nfile = "{name}.onnx"\nsha256 = "{digest}"\n'
            f"[models.{name}.preprocessing]\nmean = [0, 0, 0]\nscale = [1, 1, 1]\nwidth = 112\nheight = 112\n"
            'template = "arcface-112"\n'
            f'[models.{name}.card]\nrecipe = "tiny.toml"\nparameters = 1234\nfigures = {{ accuracy = 0.5 }}\n'
        )
    (tmp_path / "manifest.toml").write_text('[defaults]\nmask = "good"\n' + "".join(tables))
    monkeypatch.setenv("FACEKD_ZOO", str(tmp_path))
    return tmp_path


def test_verify_names_the_damaged_model_and_exits_with_4(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["zoo", "verify", "--json"]) == 4
    models = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["models"]}
    assert models["good"]["verified"] is True
    assert models["changed"]["verified"] is False
    assert "SHA-256" in models["changed"]["error"]


def test_verify_of_a_good_model_is_0(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["zoo", "verify", "mask"]) == 0
    assert "verified" in capsys.readouterr().out


def test_show_has_recipe_digest_size_and_figures(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["zoo", "show", "--json"]) == 0
    models = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["models"]}
    assert models["good"]["default"] is True
    assert models["changed"]["default"] is False
    assert models["good"]["bytes"] == (zoo / "good.onnx").stat().st_size
    assert models["good"]["card"]["figures"] == {"accuracy": 0.5}
    assert len(models["good"]["contract"]) == 16
    assert cli.run(["zoo", "show"]) == 0
    printed = capsys.readouterr().out
    for words in ("good", "mask (default)", "tiny.toml", models["good"]["sha256"], "accuracy 0.5", "1,234 parameters"):
        assert words in printed


def test_an_unknown_model_is_wrong_use_and_lists_the_known(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["zoo", "show", "nothing"]) == 2
    assert "good" in capsys.readouterr().err
