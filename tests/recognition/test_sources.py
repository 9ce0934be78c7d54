"""Folders of every layout join to one training set."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.errors import DataError
from facekd.recognition.data.encoded import chosen_crops, joined_crops
from facekd.recognition.data.face_sets import join_sets
from facekd.recognition.data.record_io import RecordWriter
from facekd.recognition.data.shards import FaceSet
from facekd.recognition.data.sources import held_out, read_folder, read_training, read_validation


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((112, 112, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def every_layout(root: Path) -> list[Path]:
    """Grey values 10, 20 in shards (ann, nobody), 30 in a record (7), 40 in a tar (7), 50 in a folder (ann)."""
    shards, record, tar, folder = (root / name for name in ("shards", "record", "tar", "folder"))
    for path in (shards, record, tar, folder / "ann"):
        path.mkdir(parents=True)
    with zipfile.ZipFile(shards / "a.zip", "w") as archive:
        for value in (10, 20, 99):
            archive.writestr(f"{value}.png", picture(value))
    rows = "a.zip,10.png,ann,train\na.zip,20.png,,train\na.zip,99.png,bob,val\n"
    (shards / "faces.csv").write_text("shard,file,identity,split\n" + rows)
    with RecordWriter(record / "train.rec") as writer:
        writer.add(1, (7,), picture(30))
    with tarfile.open(tar / "0.tar", "w") as archive:
        for name, data in (("1.png", picture(40)), ("1.cls", b"7")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (folder / "ann" / "x.png").write_bytes(picture(50))
    return [shards, record, tar, folder]


def test_every_layout_joins(tmp_path: Path) -> None:
    folders = every_layout(tmp_path)
    faces = read_training(folders)
    assert faces.people == ("ann", "record/7", "tar/7")  # numbers are a set's own, names are everybody's
    assert faces.labels.tolist() == [0, -1, 1, 2, 0]
    assert faces.crops[np.arange(5)][:, 0, 0, 0].tolist() == [10, 20, 30, 40, 50]
    assert not faces.teachers
    only = read_training(folders[:1])
    assert isinstance(only.crops, np.ndarray)
    assert len(only) == 2


def test_teachers_of_all_folders_or_of_none(tmp_path: Path) -> None:
    folders = every_layout(tmp_path)
    for folder, rows in zip(folders, (3, 1, 1, 1), strict=True):
        np.save(folder / "teacher_t.npy", np.full((rows, 2), len(folder.name), np.float16))
    faces = read_training(folders, teachers=["t"])
    assert faces.teachers["t"].shape == (5, 2)
    np.testing.assert_allclose(np.linalg.norm(faces.teachers["t"][:], axis=1), 1.0, atol=1e-6)
    without = read_training(folders[1:2])
    with pytest.raises(DataError, match="embeddings of t and others have not"):
        join_sets([faces, without])
    np.save(folders[1] / "teacher_t.npy", np.ones((2, 2), np.float16))
    with pytest.raises(DataError, match="1 rows"):
        read_training(folders, teachers=["t"])


def test_a_folder_of_no_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photograph.png").write_bytes(picture(1))
    with pytest.raises(DataError, match="a folder a person"):
        read_training([tmp_path])
    with pytest.raises(DataError, match="--data"):
        read_training([])


def test_a_folder_is_read_whole_with_its_splits(tmp_path: Path) -> None:
    shards, record, tar, folder = every_layout(tmp_path)
    whole = read_folder(shards)
    assert whole.identities == ("ann", "", "bob")
    assert whole.training.tolist() == [True, True, False]
    assert whole.crops[np.arange(3)][:, 0, 0, 0].tolist() == [10, 20, 99]
    for other, identity in ((record, "record/7"), (tar, "tar/7"), (folder, "ann")):
        assert read_folder(other).identities == (identity,)
        assert read_folder(other).training.all()


def plain_layouts(root: Path, people: int = 40) -> list[Path]:
    """A record, a tar, people's folders and a table without val: three crops each of people, none in two of them."""
    record, tar, folder, table = (root / name for name in ("record", "tar", "folder", "table"))
    for path in (record, tar, folder, table):
        path.mkdir(parents=True)
    data = picture(9)
    with RecordWriter(record / "train.rec") as writer:
        for key in range(3 * people):
            writer.add(key + 1, (key % people,), data)
    with tarfile.open(tar / "0.tar", "w") as archive:
        for key in range(3 * people):
            for name, content in ((f"{key}.png", data), (f"{key}.cls", str(key % people).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    for person in range(people):
        (folder / f"person {person}").mkdir()
        for key in range(3):
            (folder / f"person {person}" / f"{key}.png").write_bytes(data)
    with zipfile.ZipFile(table / "a.zip", "w") as archive:
        for key in range(3 * people):
            archive.writestr(f"{key}.png", data)
    rows = [f"a.zip,{key}.png,citizen {key % people},train" for key in range(3 * people)]
    (table / "faces.csv").write_text("\n".join(["shard,file,identity,split", *rows]))
    return [record, tar, folder, table]


def names(faces: FaceSet) -> list[str]:
    return [faces.people[label] for label in faces.labels]


def test_people_are_held_out_where_no_folder_has_a_val_split(tmp_path: Path) -> None:
    folders = plain_layouts(tmp_path)
    for some in ([folder] for folder in folders):
        train, val = read_training(some, val_share=0.2), read_validation(some, val_share=0.2)
        assert not set(train.people) & set(val.people)
        assert len(train.people) + len(val.people) == 40
        assert 2 <= len(val.people) <= 16
        assert len(train) + len(val) == 120
        assert np.bincount(val.labels).tolist() == [3] * len(val.people)
        assert isinstance(val.crops, np.ndarray)
        assert val.crops.shape == (len(val), 112, 112, 3)
    together = read_validation(folders, val_share=0.2)
    assert set(together.people) == set().union(*(held_out([folder], 0.2) for folder in folders))
    with pytest.raises(DataError, match="at least two people"):
        read_validation(folders, val_share=0.0)
    assert len(read_training(folders, val_share=0.0)) == 480


def test_one_folder_with_a_val_split_is_enough(tmp_path: Path) -> None:
    shards = every_layout(tmp_path / "a")[0]
    folders = [*plain_layouts(tmp_path / "b"), shards]
    assert read_validation(folders).people == ("bob",)
    assert len(read_training(folders, val_share=0.2)) == 482


def test_numbers_of_folders_with_one_name_are_different_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for parent, value in (("a", 30), ("b", 40)):
        (tmp_path / parent / "train").mkdir(parents=True)
        with RecordWriter(tmp_path / parent / "train" / "train.rec") as writer:
            writer.add(1, (7,), picture(value))
    folders = [tmp_path / "a" / "train", tmp_path / "b" / "train"]
    faces = read_training(folders, val_share=0.0)
    assert faces.people == ("a/train/7", "b/train/7")
    assert faces.labels.tolist() == [0, 1]
    assert read_training(folders[:1], val_share=0.0).people == ("train/7",)  # as ever where nothing is confused
    monkeypatch.chdir(folders[0])
    assert read_training([Path()], val_share=0.0).people == ("train/7",)
    assert read_training([Path(), folders[0]], val_share=0.0).people == ("train/7",)  # one folder, named twice


def test_a_folder_of_validation_alone_stands_beside_others(tmp_path: Path) -> None:
    shards = every_layout(tmp_path / "a")[0]
    table = (shards / "faces.csv").read_text()
    (shards / "faces.csv").write_text(table.replace(",train", ",val"))
    others = plain_layouts(tmp_path / "b")
    assert len(read_training([*others, shards], val_share=0.2)) == 480
    assert len(read_training([others[0], shards], val_share=0.2)) == 120
    assert read_validation([others[0], shards]).people == ("ann", "bob")
    with pytest.raises(DataError, match="'train'"):
        read_training([shards])


def test_no_more_people_are_held_out_than_validation_looks_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plain_layouts(tmp_path)[2]
    everyone = held_out([folder], 0.5)
    monkeypatch.setattr("facekd.recognition.data.sources.MOST_VAL_CROPS", 9)
    few = held_out([folder], 0.5)
    assert len(few) == 3 < len(everyone)
    assert few < everyone
    assert set(read_validation([folder], val_share=0.5).people) == few
    assert len(read_training([folder], val_share=0.5).people) == 37


def table(folder: Path, rows: list[tuple[str, str]]) -> Path:
    """Rows of (identity, split); the crop's grey value is the row's number."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number in range(len(rows)):
            archive.writestr(f"{number}.png", picture(number))
    lines = [f"a.zip,{number}.png,{who},{split}" for number, (who, split) in enumerate(rows)]
    (folder / "faces.csv").write_text("\n".join(["shard,file,identity,split", *lines]))
    return folder


EVERYBODY = ("ada", "bob", "cyd", "dan", "eve")


@pytest.mark.parametrize("layout", ["table", "people"])
def test_people_of_val_and_test_are_not_trained_on_from_any_folder(tmp_path: Path, layout: str) -> None:
    splits = {"ada": "val", "bob": "val", "eve": "test"}
    rows = [(name, splits.get(name, "train")) for name in EVERYBODY for _ in range(2)]
    split = table(tmp_path / "split", [*rows, ("", "train"), ("", "val"), ("", "test")])
    if layout == "table":
        other = table(tmp_path / "other", [*((name, "train") for name in EVERYBODY for _ in range(2)), ("", "train")])
    else:
        other = tmp_path / "other"
        for name in EVERYBODY:
            (other / name).mkdir(parents=True)
            for number in range(2):
                (other / name / f"{number}.png").write_bytes(picture(number))
    faces = read_training([split, other])
    assert faces.people == ("cyd", "dan")
    assert np.bincount(faces.labels[faces.labels >= 0]).tolist() == [4, 4]
    assert np.count_nonzero(faces.labels < 0) == (2 if layout == "table" else 1)  # nobody's are no people of val
    val = read_validation([split, other])
    assert (val.people, len(val)) == (("ada", "bob"), 4)


def test_people_of_test_are_neither_trained_on_nor_chosen_on_without_a_val_split(tmp_path: Path) -> None:
    tested = table(tmp_path / "tested", [("ada", "test"), ("ada", "test")])
    other = table(tmp_path / "other", [(name, "train") for name in EVERYBODY for _ in range(2)])
    assert read_training([tested, other], val_share=0.0).people == EVERYBODY[1:]
    assert read_validation([tested, other], val_share=1.0).people == EVERYBODY[1:]
    with pytest.raises(DataError, match="without the 5 people of validation and test"):
        read_training([tested, other], val_share=1.0)


def test_folders_of_nobody_but_people_of_val_are_passed_over_or_refused(tmp_path: Path) -> None:
    val = table(tmp_path / "val", [(name, "val") for name in ("ada", "bob") for _ in range(2)])
    known = table(tmp_path / "known", [("ada", "train")])
    for name in ("ada", "cyd"):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "0.png").write_bytes(picture(9))
    assert read_training([val, known, tmp_path / "cyd"]).people == ("cyd",)
    with pytest.raises(DataError, match="2 people of validation and test, who must not be trained on"):
        read_training([val, tmp_path / "ada"])


@pytest.mark.parametrize("split", ["val", "train"])
def test_of_many_crops_of_validation_some_of_each_person_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    rows = [(name, split) for name in EVERYBODY for _ in range(9 if name == "bob" else 3)]
    folder = table(tmp_path / "crops", rows)

    def seen() -> dict[str, list[int]]:
        found = read_validation([folder], val_share=1.0)
        assert isinstance(found.crops, np.ndarray)
        greys: dict[str, list[int]] = {name: [] for name in EVERYBODY}
        for name, crop in zip(names(found), found.crops, strict=True):
            greys[name].append(int(crop[0, 0, 0]))
        return greys

    whole = seen()
    assert [len(found) for found in whole.values()] == [3, 9, 3, 3, 3]
    assert sorted(grey for found in whole.values() for grey in found) == list(range(21))
    sources = "facekd.recognition.data.sources"
    monkeypatch.setattr(f"{sources}.MOST_VAL_CROPS", 21)
    assert seen() == whole  # not more than the most
    monkeypatch.setattr(f"{sources}._share_of_people", lambda *_: frozenset(EVERYBODY))
    monkeypatch.setattr(f"{sources}.MOST_VAL_CROPS", 8)
    monkeypatch.setattr(f"{sources}.MOST_OF_ONE", 2)
    few = seen()
    assert sum(len(found) for found in few.values()) == 8
    assert sorted(len(found) for found in few.values()) == [0, 2, 2, 2, 2]
    order = sorted(EVERYBODY, key=lambda name: hashlib.sha256(name.encode()).digest())
    assert not few[order[-1]]
    assert few["bob"] == [3, 11]  # from the first to the last


def test_chosen_crops_are_indexed_as_an_array() -> None:
    crops = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 112, 112, 3), np.uint8)
    assert chosen_crops(crops, np.array([3, 1]))[:][:, 0, 0, 0].tolist() == [3, 1]


def test_joined_crops_are_indexed_as_one_array() -> None:
    parts = [np.full((count, 112, 112, 3), count, np.uint8) for count in (2, 0, 3)]
    joined, whole = joined_crops(parts), np.concatenate(parts)
    assert len(joined) == 5
    for index in (0, 1, 2, 4, -1, slice(1, 4), np.array([4, 0])):
        np.testing.assert_array_equal(joined[index], whole[index])
    with pytest.raises(IndexError):
        joined[5]
    assert len(joined_crops([])) == 0
