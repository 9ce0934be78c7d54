"""Screening a folder: what is found, what training then sees, and that validation stays as it was."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.errors import ConfigError, DataError
from facekd.recognition.data.screen_folder import ScreeningSettings, screen_folder, strangers_cosine
from facekd.recognition.data.shards import read_faces
from facekd.recognition.data.sources import held_out, read_folder, read_training, read_validation

SETTINGS = ScreeningSettings(suspicious_below=0.5, group_above=0.7)


def someone(person: int, number: int, spread: float = 0.12) -> np.ndarray:
    """A unit vector near the person's direction: two of one person have a cosine of about 0.8."""
    direction = np.random.default_rng(person).normal(size=64)
    direction /= np.linalg.norm(direction)
    vector = direction + np.random.default_rng((person, number)).normal(size=64) * spread / 2
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def made_up() -> tuple[list[tuple[str, str]], np.ndarray]:
    """(identity, split) and embedding of each crop: 0 to 5 ann, of which 5 is bob; 6 to 11 bob, of which 11 copies 6;
    12 to 16 nobody, all of one further person; 17, 18 nobody, ann; 19, 20 zoe in val; 21 a copy of 19 in training;
    22 to 26 nobody, zoe."""
    rows = [("ann", "train")] * 6 + [("bob", "train")] * 6 + [("", "train")] * 7
    rows += [("zoe", "val")] * 2 + [("", "train")] * 6
    vectors = [someone(1, i) for i in range(5)] + [someone(2, 90)]
    vectors += [someone(2, i) for i in range(5)] + [someone(2, 0, 0.1201)]
    vectors += [someone(3, i) for i in range(5)] + [someone(1, i) for i in (50, 51)]
    vectors += [someone(4, 0), someone(4, 1), someone(4, 0)] + [someone(4, i) for i in range(10, 15)]
    return rows, np.stack(vectors)


def as_table(folder: Path, rows: list[tuple[str, str]], embeddings: np.ndarray) -> Path:
    folder.mkdir()
    lines = ["shard,file,identity,split"]
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number, (identity, split) in enumerate(rows):
            buffer = io.BytesIO()
            Image.fromarray(np.full((112, 112, 3), number, np.uint8)).save(buffer, "PNG")
            archive.writestr(f"{number}.png", buffer.getvalue())
            lines.append(f"a.zip,{number}.png,{identity},{split}")
    (folder / "faces.csv").write_text("\n".join(lines))
    np.save(folder / "teacher_t.npy", embeddings)
    return folder


def as_people(folder: Path, rows: list[tuple[str, str]]) -> Path:
    for number, (identity, _) in enumerate(rows):
        path = folder / (identity or "_unlabelled") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((112, 112, 3), number, np.uint8)).save(path)
    return folder


def screen(folder: Path, embeddings: np.ndarray) -> object:
    whole = read_folder(folder)
    return screen_folder(folder, whole.identities, whole.training, embeddings, SETTINGS)


def seen(folder: Path, val_share: float = 0.0) -> dict[int, str]:
    """Who training takes each crop for, by the crop's grey value."""
    faces = read_training([folder], val_share=val_share)
    names = (*faces.people, "")
    return {int(faces.crops[i][0, 0, 0]): names[faces.labels[i]] for i in range(len(faces))}


def test_a_table(tmp_path: Path) -> None:
    rows, embeddings = made_up()
    folder = as_table(tmp_path / "crops", rows, embeddings)
    report = screen(folder, embeddings)
    assert (report.misfits, report.copies, report.grouped, report.new_people) == (1, 2, 5, 1)
    after = seen(folder)
    assert after[5] == ""  # filed under ann, but bob: nobody's, still good for imitation
    assert 11 not in after
    assert 21 not in after  # a copy of a validation crop
    assert {after[i] for i in range(12, 17)} == {"crops/group-00000"}
    assert {after[i] for i in (17, 18, *range(22, 27))} == {""}  # ann, and zoe who must stay unseen by name
    assert all(after[i] == "ann" for i in range(5))
    val = read_faces([folder], "val")
    assert (len(val), val.people) == (2, ("zoe",))
    taught = read_training([folder], teachers=["t"])
    said = taught.teachers["t"][:]
    by_grey = {int(taught.crops[i][0, 0, 0]): said[i] for i in range(len(taught))}
    np.testing.assert_allclose(by_grey[16], embeddings[16], atol=1e-6)  # rows stay with their crops


def test_peoples_folders(tmp_path: Path) -> None:
    rows, embeddings = made_up()
    folder = as_people(tmp_path / "crops", rows)
    grey = [int(crop[0, 0, 0]) for crop in read_folder(folder).crops[:]]
    np.save(folder / "teacher_t.npy", embeddings[grey])
    report = screen(folder, embeddings[grey])
    assert (report.misfits, report.copies, report.grouped) == (1, 2, 5)
    after = seen(folder)
    assert 11 not in after
    assert after[5] == ""
    assert {after[i] for i in range(12, 17)} == {"crops/group-00000"}
    taught = read_training([folder], teachers=["t"], val_share=0.0)
    said = taught.teachers["t"][:]
    for i in range(len(taught)):
        np.testing.assert_allclose(said[i], embeddings[int(taught.crops[i][0, 0, 0])], atol=1e-6)


def test_removing_the_file_undoes_it_and_a_stale_one_is_refused(tmp_path: Path) -> None:
    rows, embeddings = made_up()
    folder = as_table(tmp_path / "crops", rows, embeddings)
    before = seen(folder)
    screen(folder, embeddings)
    assert seen(folder) != before
    table = folder / "faces.csv"
    table.write_text(table.read_text().replace("ann", "eva"))
    with pytest.raises(DataError, match="other crops or names"):
        read_training([folder])
    (folder / "screening.csv").unlink()
    assert set(seen(folder).values()) == {"eva", "bob", ""}


def test_thresholds_come_from_how_alike_strangers_are() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(400, 32)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = np.arange(400) % 200
    found = strangers_cosine(embeddings, labels, 1e-3, "--x")
    first, second = np.triu_indices(400, 1)
    cosines = (embeddings @ embeddings.T)[first, second][labels[first] != labels[second]]
    assert (cosines >= found).mean() == pytest.approx(1e-3, rel=0.02)
    with pytest.raises(ConfigError, match="--x COSINE"):
        strangers_cosine(embeddings[:40], labels[:40], 1e-3, "--x")


def test_wrong_names_hardly_move_the_thresholds(tmp_path: Path) -> None:
    embeddings = np.stack([someone(person, number) for person in range(250) for number in range(6)])
    embeddings = np.concatenate([embeddings, [someone(999, 0)]])
    names = np.array([f"p{person}" for person in range(250) for _ in range(6)] + [""])
    training = np.ones(len(names), np.bool_)
    clean = screen_folder(tmp_path, names.tolist(), training, embeddings)
    wrong = np.arange(0, 1500, 60)
    names[wrong] = names[(wrong + 6) % 1500]
    spoilt = screen_folder(tmp_path, names.tolist(), training, embeddings)
    assert (clean.misfits, spoilt.misfits) == (0, len(wrong))
    assert spoilt.group_above == pytest.approx(clean.group_above, abs=0.05)
    assert clean.group_above < 0.7  # what two crops of one person exceed


@pytest.mark.parametrize("layout", ["table", "people"])
def test_a_person_of_validation_is_never_trained_on_whatever_the_screening_said(tmp_path: Path, layout: str) -> None:
    """Crop 5 is filed under ann but is bob; 11 copies 6. Whoever of the two is held out, neither is in both sets."""
    rows, embeddings = made_up()
    rows, embeddings = [(name, "train") for name, _ in rows], embeddings.copy()
    share = 1.0  # everybody
    folder = tmp_path / "crops"
    folder = as_table(folder, rows, embeddings) if layout == "table" else as_people(folder, rows)
    whole = read_folder(folder)
    grey = [int(crop[0, 0, 0]) for crop in whole.crops[:]]
    screen_folder(folder, whole.identities, whole.training, embeddings[grey], SETTINGS)
    people = held_out([folder], share)
    assert {"ann", "bob"} <= people
    val = read_validation([folder], val_share=share)
    trained = seen(folder, share)
    judged = {int(crop[0, 0, 0]): val.people[label] for crop, label in zip(val.crops, val.labels, strict=True)}
    assert not set(trained) & set(judged)
    assert {5, 11}.isdisjoint(trained)  # filed under somebody held out
    assert {5, 11}.isdisjoint(judged)  # a misfit and a copy say nothing about a network
    assert all(judged[i] == "ann" for i in range(5))
    assert {trained[i] for i in range(12, 17)} == {"crops/group-00000"}


def test_groups_of_folders_with_one_name_are_different_people(tmp_path: Path) -> None:
    rows, embeddings = made_up()
    folders = []
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        folders.append(as_table(tmp_path / parent / "train", rows, embeddings))
        screen(folders[-1], embeddings)
    people = read_training(folders).people
    assert people == ("a/train/group-00000", "ann", "b/train/group-00000", "bob")
