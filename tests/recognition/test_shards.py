"""Shards: what is written is read again, folders join, faults are named."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.errors import DataError
from facekd.recognition.data.encoded import LazyCrops
from facekd.recognition.data.mask_shards import read_masks
from facekd.recognition.data.shards import read_faces
from facekd.recognition.data.tables import read_table


def webp(value: int, side: int = 112) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def write_faces(folder: Path, rows: list[tuple[str, str, int]], teacher: bool = True) -> Path:
    """Rows of (identity, split, grey value)."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for i, (_, _, value) in enumerate(rows):
            archive.writestr(f"{i}.webp", webp(value))
    lines = ["shard,file,identity,split", *(f"a.zip,{i}.webp,{who},{split}" for i, (who, split, _) in enumerate(rows))]
    (folder / "faces.csv").write_text("\n".join(lines) + "\n")
    if teacher:
        np.save(folder / "teacher_t.npy", np.arange(1, len(rows) + 1, dtype=np.float16)[:, None] * [[3.0, 4.0]])
    return folder


def test_one_person_in_two_folders_is_one_person(tmp_path: Path) -> None:
    first = write_faces(tmp_path / "x", [("ann", "train", 10), ("", "train", 20), ("bob", "val", 30)])
    second = write_faces(tmp_path / "y", [("bob", "train", 40), ("ann", "train", 50)])
    faces = read_faces([first, second], "train", teachers=["t"])
    assert faces.people == ("ann", "bob")
    assert faces.labels.tolist() == [0, -1, 1, 0]
    assert faces.crops[:, 0, 0, 0].tolist() == [10, 20, 40, 50]
    np.testing.assert_allclose(faces.teachers["t"][:], [[0.6, 0.8]] * 4, atol=1e-3)  # unit length, right rows
    assert read_faces([first], "train", labelled_only=True).labels.tolist() == [0]


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        read_faces([], "train")
    with pytest.raises(DataError, match=r"faces\.csv"):
        read_faces([tmp_path], "train")
    folder = write_faces(tmp_path / "x", [("ann", "train", 10)], teacher=False)
    with pytest.raises(DataError, match="split 'test'"):
        read_faces([folder], "test")
    with pytest.raises(DataError, match=r"teacher_t\.npy"):
        read_faces([folder], "train", teachers=["t"])
    np.save(folder / "teacher_t.npy", np.ones((2, 4), np.float16))
    with pytest.raises(DataError, match="1 rows"):
        read_faces([folder], "train", teachers=["t"])
    (folder / "a.zip").write_bytes(b"")
    with pytest.raises(DataError, match="Cannot read crops"):
        read_faces([folder], "train")
    (folder / "faces.csv").write_text("shard,file\na.zip,0.webp\n")
    with pytest.raises(DataError, match="identity, split; it has shard, file"):
        read_faces([folder], "train")
    (folder / "faces.csv").write_bytes("shard,file,identity,split\na.zip,0.webp,Zoë,train\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"Cannot read the table .*facekd prepare"):
        read_faces([folder], "train")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("a.zip,0.webp,ann,train\na.zip,1.webp", "line 3: 2 values, the header names 4 columns; .*cut off"),
        ("a.zip,0.webp,ann,train\n\na.zip,1.webp,ann,train,x,y", "line 4: 6 values, .*needs quotes"),
        ("a.zip,0.webp,ann,train\na.zip,0.webp,ann,train", r"line 3: a\.zip/0\.webp stands on line 2"),
        ("a.zip,0.webp,ann,train\na.zip,0.webp,bob,test", r"line 3: a\.zip/0\.webp stands on line 2"),
    ],
)
def test_lines_that_do_not_fit_are_named(tmp_path: Path, lines: str, said: str) -> None:
    folder = write_faces(tmp_path / "x", [("ann", "train", 10), ("ann", "train", 20)], teacher=False)
    (folder / "faces.csv").write_text(f"shard,file,identity,split\n{lines}\n")
    with pytest.raises(DataError, match=rf"faces\.csv, {said}"):
        read_faces([folder], "train")


def test_one_file_name_in_two_shards_is_two_crops(tmp_path: Path) -> None:
    (tmp_path / "faces.csv").write_text("shard,file\na.zip,0.webp\nb.zip,0.webp\n")
    assert [row["shard"] for row in read_table(tmp_path / "faces.csv", ("shard", "file"))] == ["a.zip", "b.zip"]


def test_a_table_that_a_spreadsheet_wrote(tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "x", [("ann", "train", 10), ("bob", "train", 20)])
    keys = read_faces([folder], "train").keys
    table = (folder / "faces.csv").read_text()
    (folder / "faces.csv").write_bytes(table.replace("\n", "\r\n").encode("utf-8-sig"))
    faces = read_faces([folder], "train", teachers=["t"])
    assert faces.people == ("ann", "bob")
    np.testing.assert_array_equal(faces.keys, keys)  # the digest reads the same crops


@pytest.mark.parametrize("name", ["faces/faces.csv", "faces_more/faces.csv", "mask/mask.csv"])
def test_the_real_tables_name_each_crop_once(shared_data: Path, name: str) -> None:
    assert len(read_table(shared_data / name, ("file",))) > 1000


def test_a_large_table_stays_encoded_until_it_is_used(tmp_path: Path) -> None:
    first = write_faces(tmp_path / "x", [("ann", "train", 10), ("bob", "val", 30), ("", "train", 20)])
    second = write_faces(tmp_path / "y", [("bob", "train", 40), ("ann", "train", 50)])
    whole = read_faces([first, second], "train", teachers=["t"], most_decoded=4)
    lazy = read_faces([first, second], "train", teachers=["t"], most_decoded=3)
    assert isinstance(whole.crops, np.ndarray)
    assert isinstance(lazy.crops, LazyCrops)
    np.testing.assert_array_equal(lazy.crops[:], whole.crops)
    np.testing.assert_array_equal(lazy.keys, whole.keys)
    assert (lazy.people, lazy.labels.tolist()) == (whole.people, whole.labels.tolist())
    table = (second / "faces.csv").read_text()
    (second / "faces.csv").write_text(table.replace("1.webp", "absent.webp"))
    with pytest.raises(DataError, match=r"absent\.webp"):
        read_faces([first, second], "train", most_decoded=3)


def test_masks(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for name, value in (("0.webp", 10), ("1.webp", 20), ("unnamed.webp", 30)):
            archive.writestr(name, webp(value))
    table = "shard,file,label,split\nm.zip,0.webp,none,train\nm.zip,1.webp,incorrect,train\n"
    (tmp_path / "mask.csv").write_text(table)
    masks = read_masks(tmp_path, "train")
    assert masks.labels.tolist() == [0, 2]
    assert masks.crops[:, 0, 0, 0].tolist() == [10, 20]
    with pytest.raises(DataError, match="split 'val'"):
        read_masks(tmp_path, "val")
    (tmp_path / "mask.csv").write_text("shard,file,label,split\nm.zip,0.webp,beard,train\n")
    with pytest.raises(DataError, match="beard"):
        read_masks(tmp_path, "train")
