"""The zoo: what a manifest may say, how models are found, and that damaged weights never load."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import ConfigError, ModelError
from facekd.zoo import TASKS, Preprocessing, find_model, load_manifest, read_model

PLAIN = Preprocessing(mean=(127.5, 127.5, 127.5), scale=(0.0078125,) * 3, width=0, height=0, multiple=32)


@pytest.fixture
def own_zoo(fake_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the fake zoo that a test may damage."""
    folder = tmp_path / "zoo"
    shutil.copytree(fake_zoo, folder)
    monkeypatch.setenv("FACEKD_ZOO", str(folder))
    return folder


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "manifest.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_shipped_manifest_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACEKD_ZOO", raising=False)
    manifest = load_manifest()
    assert set(manifest.defaults) == set(TASKS)
    for name, record in manifest.models.items():
        assert record.name == name
        assert record.path.parent.name == "zoo"
        side, template = {"detector": (0, "none"), "refiner": (64, "face-64")}.get(record.task, (112, "arcface-112"))
        assert (record.preprocessing.width, record.preprocessing.height) == (side, side)
        assert record.preprocessing.template == template


def test_find_by_task_name_and_path(fake_zoo: Path) -> None:
    by_task, by_name = find_model("embedder"), find_model("fake-embedder")
    assert by_task == by_name
    assert by_task.path == fake_zoo / "fake-embedder.onnx"
    with pytest.raises(ConfigError, match=r"'nobody'.*fake-detector"):
        find_model("nobody")


def test_model_beside_its_own_record(fake_zoo: Path, tmp_path: Path) -> None:
    shutil.copy(fake_zoo / "fake-mask.onnx", tmp_path / "mine.onnx")
    with pytest.raises(ConfigError, match=r"mine\.toml.*import-teacher"):
        find_model(tmp_path / "mine.onnx")
    with pytest.raises(ConfigError, match=r"there is no file .*nobodys\.onnx"):
        find_model(tmp_path / "nobodys.onnx")
    digest = find_model("mask").sha256
    (tmp_path / "mine.toml").write_text(
        f'task = "mask"\nsha256 = "{digest}"\n[preprocessing]\nmean = [127.5, 127.5, 127.5]\n'
        'scale = [0.0078125, 0.0078125, 0.0078125]\nwidth = 112\nheight = 112\ntemplate = "arcface-112"\n'
    )
    record = find_model(tmp_path / "mine.onnx")
    assert (record.name, record.file) == ("mine", "mine.onnx")
    assert record.contract == find_model("mask").contract  # the same weights and preprocessing
    assert read_model(record) == (tmp_path / "mine.onnx").read_bytes()


def test_contract_follows_weights_and_preprocessing_only(fake_zoo: Path) -> None:
    record = find_model("embedder")
    assert len(record.contract) == 16
    assert int(record.contract, 16) >= 0
    renamed = record.model_copy(update={"name": "other", "card": record.card.model_copy(update={"notes": "x"})})
    assert renamed.contract == record.contract
    other_mean = record.preprocessing.model_copy(update={"mean": (0.0, 0.0, 0.0)})
    assert record.model_copy(update={"preprocessing": other_mean}).contract != record.contract
    assert record.model_copy(update={"sha256": "0" * 64}).contract != record.contract


def test_whole_numbers_make_the_same_contract() -> None:
    def with_mean(mean: object) -> Preprocessing:
        return Preprocessing.model_validate({"mean": mean, "scale": [1, 1, 1], "width": 112, "height": 112})

    assert with_mean([127, 127, 127]).model_dump_json() == with_mean([127.0, 127.0, 127.0]).model_dump_json()


def test_damaged_weights(own_zoo: Path) -> None:
    path = own_zoo / "fake-detector.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"fake-detector\.onnx.*SHA-256.*reinstall"):
        read_model(find_model("detector"))
    path.unlink()
    with pytest.raises(ModelError, match=r"missing.*fake-detector\.onnx.*reinstall"):
        read_model(find_model("detector"))
    path.mkdir()
    with pytest.raises(ModelError, match="cannot be read"):
        read_model(find_model("detector"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[defaults]", "[defaults", "not TOML"),
        ('task = "detector"', 'task = "detektor"', r"fake-detector\.task"),
        ('task = "detector"', 'task = "detector"\ncolor = "RGB"', r"fake-detector\.color"),
        ('detector = "fake-detector"', 'detector = "none"', "default detector 'none'"),
        ('detector = "fake-detector"', 'detector = "fake-mask"', "'mask'"),
        ('sha256 = "', 'sha256 = "x', "sha256"),
        ("multiple = 32", "multiple = 0", "multiple"),
        ("multiple = 32", "multiple = 8", "a detector needs"),
        ("width = 112", "width = 96", "width 112"),
        ("score_threshold = 0.5", "score_threshold = 5", "score_threshold"),
    ],
)
def test_wrong_manifests(own_zoo: Path, old: str, new: str, message: str) -> None:
    change(own_zoo, old, new)
    with pytest.raises(ModelError, match=message):
        load_manifest()


def test_missing_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEKD_ZOO", str(tmp_path))
    with pytest.raises(ModelError, match=r"manifest\.toml.*FACEKD_ZOO"):
        load_manifest()


def test_preprocessing_against_the_formula() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), np.uint8)
    model = PLAIN.model_copy(update={"mean": (1.0, 2.0, 3.0), "scale": (1.0, 0.5, 0.25)})
    got = model.apply(batch)
    assert (got.dtype, got.shape) == (np.float32, (2, 3, 32, 64))
    expected = (batch.astype(np.float64) - [1, 2, 3]) * [1, 0.5, 0.25]
    np.testing.assert_allclose(got, expected.transpose(0, 3, 1, 2), rtol=1e-6)
    # In BGR models, mean and scale are in the model's order.
    turned = model.model_copy(update={"colour": "BGR"}).apply(batch)
    expected = (batch[..., ::-1].astype(np.float64) - [1, 2, 3]) * [1, 0.5, 0.25]
    np.testing.assert_allclose(turned, expected.transpose(0, 3, 1, 2), rtol=1e-6)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 32, 64, 3), np.float32),
        np.zeros((32, 64, 3), np.uint8),
        np.zeros((1, 30, 64, 3), np.uint8),
        np.zeros((1, 32, 0, 3), np.uint8),
    ],
)
def test_preprocessing_refuses(batch: np.ndarray) -> None:
    with pytest.raises(ValueError, match="need"):
        PLAIN.apply(batch)


def test_records_are_frozen(fake_zoo: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        find_model("mask").sha256 = "0" * 64  # type: ignore[misc]
