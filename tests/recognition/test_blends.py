"""Blends of two crops: a passage from one to the other, of nobody who is held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facekd.cli import run
from facekd.errors import DataError
from facekd.images import save_image
from facekd.recognition.data.blends import blend, prepare_blends
from facekd.recognition.data.prepare import Shards
from facekd.recognition.data.sources import read_training


def stripes(value: int, across: bool) -> NDArray[np.uint8]:
    """A crop of that mean with stripes that tell it from another, whatever its light is made to be."""
    wave = 20 * np.sin(np.arange(112) * 0.8)
    crop = value + (wave[None] if across else wave[:, None]) + np.zeros((112, 112))
    return np.rint(crop)[..., None].repeat(3, 2).astype(np.uint8)


def share_of(crop: NDArray[np.uint8], one: NDArray[np.uint8], other: NDArray[np.uint8]) -> tuple[float, float]:
    """How strongly the stripes of each are in a crop, as in itself 1."""
    parts = []
    for whole in (one, other):
        pattern = whole - whole.mean()
        parts.append(float(((crop - crop.mean()) * pattern).sum() / (pattern * pattern).sum()))
    return parts[0], parts[1]


def test_both_faces_are_in_a_blend_in_the_light_of_the_first() -> None:
    one, other = stripes(60, True), stripes(180, False)
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(50):
        crop = blend(one, other, rng)
        assert crop.shape == (112, 112, 3)
        assert crop.dtype == np.uint8
        assert abs(crop.mean() - one.mean()) < 5
        shares.append(share_of(crop, one, other))
    # On the whole half of each; each one's part is what the other lacks.
    np.testing.assert_allclose(np.mean(shares, axis=0), 0.5, atol=0.05)
    np.testing.assert_allclose(np.sum(shares, axis=1), 1.0, atol=0.1)


def test_a_seam_leaves_each_side_as_it_was_and_softness_differs() -> None:
    one, other = stripes(100, True), stripes(100, False)
    rng = np.random.default_rng(1)
    untouched = [float((blend(one, other, rng) == one).all(axis=2).mean()) for _ in range(50)]
    assert max(untouched) > 0.4  # a seam: one side is the first crop
    assert min(untouched) < 0.3  # a mixture everywhere


def fill(folder: Path, rows: list[tuple[int, str, str]]) -> None:
    with Shards(folder, 92) as shards:
        for value, identity, split in rows:
            crop = np.full((112, 112, 3), value, np.uint8)
            shards.add(crop, (identity, split, "", "", "", "", "", ""))


def test_written_blends_are_faces_of_nobody_made_of_nobody_held_out(tmp_path: Path) -> None:
    rows = [(40, "ann", "train"), (60, "", "train"), (50, "bob", "train"), (250, "cy", "val"), (240, "dee", "test")]
    fill(tmp_path / "faces", rows)
    prepare_blends(tmp_path / "faces", tmp_path / "blends", 20)
    faces = read_training([tmp_path / "blends"])
    assert len(faces) == 20
    assert set(faces.labels.tolist()) == {-1}
    assert faces.crops[:].max() < 100
    prepare_blends(tmp_path / "faces", tmp_path / "again", 20)
    np.testing.assert_array_equal(read_training([tmp_path / "again"]).crops[:], faces.crops[:])
    prepare_blends(tmp_path / "faces", tmp_path / "others", 20, seed=1)
    assert (read_training([tmp_path / "others"]).crops[:] != faces.crops[:]).any()


def test_people_that_training_would_hold_out_are_in_no_blend(tmp_path: Path) -> None:
    for number in range(40):
        person = tmp_path / "people" / f"n{number}"
        person.mkdir(parents=True)
        for crop in range(2):
            save_image(person / f"{crop}.png", np.full((112, 112, 3), 6 * number, np.uint8))

    def shown(folder: str) -> set[int]:
        """Who is in a folder: blends of flat crops have the light of the first, a level more or less from WebP."""
        crops = read_training([tmp_path / folder], val_share=0.5).crops[:].astype(float)
        return set(np.rint(crops.mean(axis=(1, 2, 3)) / 6).astype(int).tolist())

    trained = shown("people")
    assert 5 < len(trained) < 35
    prepare_blends(tmp_path / "people", tmp_path / "blends", 300, val_share=0.5)
    assert shown("blends") == trained


def test_too_few_crops_or_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "faces", [(40, "ann", "train")])
    with pytest.raises(DataError, match="a blend needs two"):
        prepare_blends(tmp_path / "faces", tmp_path / "blends", 3)
    assert not (tmp_path / "blends").exists()
    fill(tmp_path / "more", [(40, "ann", "train"), (50, "ann", "train")])
    with pytest.raises(DataError, match="not empty"):
        prepare_blends(tmp_path / "more", tmp_path / "faces", 3)


def test_the_command_blends_and_has_a_teacher_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "faces", [(40, "ann", "train"), (60, "", "train")])
    words = ["prepare", str(tmp_path / "faces"), str(tmp_path / "blends"), "--blends", "3", "--json"]
    assert run([*words, "--teacher", "dense-resnet"]) == 0
    assert json.loads(capsys.readouterr().out)["crops"] == 3
    faces = read_training([tmp_path / "blends"], teachers=["dense-resnet"])
    assert faces.teachers["dense-resnet"].shape == (3, 512)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--blends", "3"], "nothing to do with"),
        (["--blends", "3", "--teacher", "dense-resnet"], "--blends needs a folder OUT"),
        (["blends", "--blends", "3", "--labels", "faces/faces.csv"], "leave out --labels"),
        (["faces/blends", "--blends", "3"], "lies inside"),
    ],
)
def test_the_command_refuses_what_it_cannot_blend(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "faces", [(40, "ann", "train"), (60, "", "train")])
    assert run(["prepare", "faces", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]
