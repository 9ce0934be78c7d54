"""A teacher's embeddings beside the crops: of every layout, resumable, never of other crops or another model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd import cli
from facekd.errors import DataError
from facekd.recognition.data.sources import read_folder, read_training
from facekd.recognition.data.stored_teacher import (
    BLOCK,
    MirroredEmbedder,
    read_teacher,
    require_one_teacher,
    store_teacher,
)


class Brightness:
    """Embeds a crop as the direction of its brightness; may fail after so many crops."""

    dimension = 2

    def __init__(self, contract: str = "a" * 16, fails_after: int | None = None) -> None:
        self.contract = contract
        self.left = fails_after
        self.seen = 0

    def embed(self, crops: np.ndarray) -> np.ndarray:
        self.seen += len(crops)
        if self.left is not None and self.seen > self.left:
            raise KeyboardInterrupt
        angle = crops.mean((1, 2, 3)) / 255
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def people(folder: Path, count: int) -> Path:
    for number in range(count):
        path = folder / f"p{number % 3}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((112, 112, 3), number % 256, np.uint8)).save(path)
    return folder


def test_rows_are_in_the_readers_order_and_training_takes_them(tmp_path: Path) -> None:
    folder = people(tmp_path / "crops", 9)
    assert store_teacher(folder, "t", Brightness(), read_folder(folder).crops)
    faces = read_training([folder], teachers=["t"])
    np.testing.assert_allclose(faces.teachers["t"][:], Brightness().embed(faces.crops[:]), atol=1e-3)
    again = Brightness()
    assert not store_teacher(folder, "t", again, read_folder(folder).crops)
    assert again.seen == 0
    assert sorted(path.name for path in folder.glob("teacher_*")) == ["teacher_t.json", "teacher_t.npy"]


def test_an_interrupted_call_goes_on_where_it_was(tmp_path: Path) -> None:
    count = 2 * BLOCK + 5
    folder = people(tmp_path / "crops", count)
    crops = read_folder(folder).crops
    with pytest.raises(KeyboardInterrupt):
        store_teacher(folder, "t", Brightness(fails_after=BLOCK), crops)
    assert not (folder / "teacher_t.npy").exists()
    second = Brightness()
    store_teacher(folder, "t", second, crops)
    assert second.seen == count - BLOCK
    np.testing.assert_allclose(read_teacher(folder, "t", count)[:], Brightness().embed(crops[:]), atol=2e-3)


class LeftEdge:
    """Embeds a crop as its first two pixels' values; minds mirroring."""

    dimension, contract = 2, "c" * 16

    def embed(self, crops: np.ndarray) -> np.ndarray:
        given = crops[:, 0, :2, 0].astype(np.float32) + 1
        return given / np.linalg.norm(given, axis=1, keepdims=True)


def test_mirrored_answers_are_the_same_for_a_crop_and_its_mirror_image(tmp_path: Path) -> None:
    crops = np.random.default_rng(0).integers(1, 255, (5, 112, 112, 3), dtype=np.uint8)
    mirrored = MirroredEmbedder(LeftEdge())
    given = mirrored.embed(crops)
    one, other = LeftEdge().embed(crops), LeftEdge().embed(crops[:, :, ::-1])
    np.testing.assert_allclose(given, (one + other) / np.linalg.norm(one + other, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(mirrored.embed(crops[:, :, ::-1]), given, atol=1e-6)
    folder = people(tmp_path / "crops", 4)
    files = read_folder(folder).crops
    store_teacher(folder, "t", LeftEdge(), files)
    with pytest.raises(DataError, match="another model"):
        store_teacher(folder, "t", mirrored, files)


def test_what_another_model_began_is_not_gone_on_with(tmp_path: Path) -> None:
    folder = people(tmp_path / "crops", BLOCK + 5)
    crops = read_folder(folder).crops
    with pytest.raises(KeyboardInterrupt):
        store_teacher(folder, "t", Brightness(fails_after=BLOCK), crops)
    other = Brightness("b" * 16)
    store_teacher(folder, "t", other, crops)
    assert other.seen == BLOCK + 5


def test_several_teachers_of_several_folders_are_mapped_and_keep_their_rows(tmp_path: Path) -> None:
    folders = [people(tmp_path / name, count) for name, count in (("a", 6), ("b", 9))]
    rng = np.random.default_rng(0)
    files = {"t": 4, "u": 7}
    said = {name: [rng.normal(size=(count, width)) for count in (6, 9)] for name, width in files.items()}
    for name, parts in said.items():
        for folder, rows in zip(folders, parts, strict=True):
            np.save(folder / f"teacher_{name}.npy", rows.astype(np.float16 if name == "t" else np.float32))
    faces = read_training(folders, teachers=["t", "u"], val_share=0.0)
    for name, parts in said.items():
        wanted = np.concatenate(parts)
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        found = faces.teachers[name]
        assert found.shape == wanted.shape
        places = np.array([14, 0, 6, 5, 6])
        np.testing.assert_allclose(found[places], wanted[places], atol=2e-3)
        np.testing.assert_allclose(found.chosen(places)[1:3], wanted[[0, 6]], atol=2e-3)
        assert found[:0].shape == (0, wanted.shape[1])
        assert all(isinstance(file, np.memmap) for file, _ in found._files)
    np.save(folders[1] / "teacher_t.npy", np.ones((9, 5)))
    with pytest.raises(DataError, match=r"teacher_t\.npy differs from folder to folder: embeddings of 4, 5 numbers"):
        read_training(folders, teachers=["t"])


def test_a_row_that_is_no_embedding_is_refused_when_it_is_taken(tmp_path: Path) -> None:
    folder = people(tmp_path / "crops", 6)
    for wrong in (0.0, np.nan, np.inf):
        rows = np.ones((6, 3), np.float32)
        rows[4] = wrong
        np.save(folder / "teacher_t.npy", rows)
        with pytest.raises(DataError, match=r"row 4 of .*teacher_t\.npy has length"):
            read_teacher(folder, "t", 6)[np.array([5, 4])]


def test_stale_embeddings_are_refused(tmp_path: Path) -> None:
    folder = people(tmp_path / "crops", 6)
    store_teacher(folder, "t", Brightness(), read_folder(folder).crops)
    with pytest.raises(DataError, match="another model"):
        store_teacher(folder, "t", Brightness("b" * 16), read_folder(folder).crops)
    (folder / "p0" / "0000.png").rename(folder / "p0" / "0007.png")  # as many crops as before, in another order
    with pytest.raises(DataError, match="other crops"):
        store_teacher(folder, "t", Brightness(), read_folder(folder).crops)
    with pytest.raises(DataError, match="other crops"):
        read_training([folder], teachers=["t"])
    (folder / "teacher_t.json").unlink()
    with pytest.raises(DataError, match="nothing says which model"):
        store_teacher(folder, "t", Brightness(), read_folder(folder).crops)
    read_training([folder], teachers=["t"])  # whoever made it vouches for it


def test_a_file_that_its_note_is_not_about_is_refused(tmp_path: Path) -> None:
    folder = people(tmp_path / "crops", 6)
    store_teacher(folder, "t", Brightness(), read_folder(folder).crops)
    file, note = folder / "teacher_t.npy", folder / "teacher_t.json"
    np.save(file, np.load(file)[:, ::-1])  # as many rows, of the same length, said by somebody else
    with pytest.raises(DataError, match=r"not the file that teacher_t\.json is about"):
        read_teacher(folder, "t", 6)
    said = json.loads(note.read_text())
    del said["sha256"]  # a note as they were before
    note.write_text(json.dumps(said))
    assert not store_teacher(folder, "t", Brightness(), read_folder(folder).crops)
    read_teacher(folder, "t", 6)


def test_embeddings_of_two_models_are_not_one_teacher(tmp_path: Path) -> None:
    folders = [people(tmp_path / name, 6) for name in ("a", "b", "c")]
    for folder, contract in zip(folders, ("a" * 16, "a" * 16, "b" * 16), strict=True):
        store_teacher(folder, "t", Brightness(contract), read_folder(folder).crops)
    require_one_teacher(folders[:2], "t")
    with pytest.raises(DataError, match=r"by the model aaaaaaaaaaaaaaaa.*by bbbbbbbbbbbbbbbb: prepare one"):
        require_one_teacher(folders, "t")
    (folders[2] / "teacher_t.json").unlink()
    require_one_teacher(folders, "t")  # whoever made it vouches for it


@pytest.mark.usefixtures("fake_zoo")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "crops"
    for person in range(3):  # bands of noise: the fake embedder sees patterns, not brightness
        for number in range(6):
            noise = np.random.default_rng(person).integers(0, 200, (7, 7, 1), dtype=np.uint8)
            crop = noise.repeat(16, 0).repeat(16, 1).repeat(3, 2) + np.uint8(number)
            path = folder / f"p{person}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(crop).save(path)
    Image.fromarray(crop).save(folder / "p0" / "wrong.png")  # of p2
    for number in range(4):
        pattern = np.random.default_rng(9).integers(0, 200, (7, 7, 1), dtype=np.uint8)
        crop = (pattern.repeat(16, 0).repeat(16, 1).repeat(3, 2)).copy()
        crop[: 20 * (number + 1), 60:] //= 2
        (folder / "_unlabelled").mkdir(exist_ok=True)
        Image.fromarray(crop).save(folder / "_unlabelled" / f"{number}.png")
    options = ["--screen", "--suspicious-below", "0.5", "--group-above", "0.5", "--json", "--threads", "1"]
    assert cli.run(["prepare", str(folder), "--teacher", "fake-embedder", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["teacher"] == "fake-embedder"
    assert found["screening"]["copies"] >= 15  # brighter copies of one pattern
    assert (folder / "screening.csv").is_file()
    (folder / "teacher_fake-embedder.npy").rename(folder / "teacher_sface.npy")
    (folder / "teacher_fake-embedder.json").unlink()
    assert cli.run(["prepare", str(folder), "--teacher", "sface", *options]) == 0  # no model of that name: its answers
    captured = capsys.readouterr()
    assert json.loads(captured.out)["screening"] == found["screening"]
    assert "nothing says which model" in captured.err
    assert cli.run(["prepare", str(folder), "--teacher", "nobody"]) == 2
    assert cli.run(["prepare", str(folder)]) == 2
    assert cli.run(["prepare", str(folder), "--screen"]) == 2
    assert cli.run(["prepare", str(folder), "--teacher", "fake-embedder", "--screen"]) == 2
    assert "--suspicious-below" in capsys.readouterr().err
