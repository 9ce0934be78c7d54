"""Folders of every layout join to one training set."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.errors import DataError
from facekd.recognition.data.encoded import joined_crops
from facekd.recognition.data.record_io import RecordWriter
from facekd.recognition.data.sources import join_sets, read_training


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
    assert faces.teacher is None
    only = read_training(folders[:1])
    assert isinstance(only.crops, np.ndarray)
    assert len(only) == 2


def test_teachers_of_all_folders_or_of_none(tmp_path: Path) -> None:
    folders = every_layout(tmp_path)
    for folder, rows in zip(folders, (3, 1, 1, 1), strict=True):
        np.save(folder / "teacher_t.npy", np.full((rows, 2), len(folder.name), np.float16))
    faces = read_training(folders, teacher="t")
    assert faces.teacher is not None
    assert faces.teacher.shape == (5, 2)
    np.testing.assert_allclose(np.linalg.norm(faces.teacher, axis=1), 1.0, atol=1e-6)
    without = read_training(folders[1:2])
    with pytest.raises(DataError, match="one teacher"):
        join_sets([faces, without])
    np.save(folders[1] / "teacher_t.npy", np.ones((2, 2), np.float16))
    with pytest.raises(DataError, match="1 rows"):
        read_training(folders, teacher="t")


def test_a_folder_of_no_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photograph.png").write_bytes(picture(1))
    with pytest.raises(DataError, match="a folder a person"):
        read_training([tmp_path])
    with pytest.raises(DataError, match="--data"):
        read_training([])


def test_joined_crops_are_indexed_as_one_array() -> None:
    parts = [np.full((count, 112, 112, 3), count, np.uint8) for count in (2, 0, 3)]
    joined, whole = joined_crops(parts), np.concatenate(parts)
    assert len(joined) == 5
    for index in (0, 1, 2, 4, -1, slice(1, 4), np.array([4, 0])):
        np.testing.assert_array_equal(joined[index], whole[index])
    with pytest.raises(IndexError):
        joined[5]
    assert len(joined_crops([])) == 0
