"""Sets of the field: record files, tars and folders are read as they were written, and damage is named."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from facekd.errors import DataError, ImageError
from facekd.recognition.data.encoded import EncodedCrops
from facekd.recognition.data.identity_folders import read_identity_folders
from facekd.recognition.data.record_io import MAGIC, RecordFile, RecordWriter, read_record_faces
from facekd.recognition.data.webdataset import read_webdataset

MAGIC_BYTES = struct.pack("<I", MAGIC)


def picture(value: int, side: int = 112, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write_set(folder: Path, values: list[int], people: list[int]) -> Path:
    """As InsightFace writes it: record 0 says where pictures end, lists of people follow them."""
    count = len(values)
    with RecordWriter(folder / "train.rec") as writer:
        writer.add(0, (count + 1, count + 1 + len(set(people))))
        for key, (value, person) in enumerate(zip(values, people, strict=True), start=1):
            writer.add(key, (person,) if key % 2 else (person, 0.0), picture(value))
        for key, person in enumerate(sorted(set(people)), start=count + 1):
            own = [place + 1 for place, who in enumerate(people) if who == person]
            writer.add(key, (own[0], own[-1] + 1))
    return folder


# Encoded crops


def test_encoded_crops_behave_like_the_array() -> None:
    array = np.stack([np.full((112, 112, 3), v, np.uint8) for v in (10, 20, 30)])
    crops = EncodedCrops(lambda i: picture((10, 20, 30)[i]), 3, str)
    assert len(crops) == 3
    assert crops.shape == array.shape
    for index in (0, np.int64(2), -1, slice(0, 2), slice(5, 9), np.array([2, 0, 2]), np.array([], np.int64)):
        np.testing.assert_array_equal(crops[index], array[index])
    with pytest.raises(IndexError, match="crop 3 of 3"):
        crops[3]
    assert EncodedCrops(lambda i: picture(7, 160), 1, str)[0].shape == (112, 112, 3)
    with pytest.raises(ImageError, match=r"set\.rec: record 7"):
        EncodedCrops(lambda i: b"no picture", 1, lambda i: f"set.rec: record {i + 7}")[0]


# Record files

PIECES = st.lists(st.one_of(st.binary(max_size=9), st.just(MAGIC_BYTES), st.just(b"abc" + MAGIC_BYTES)), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(PIECES.map(b"".join), min_size=1, max_size=6))
def test_what_is_written_is_read_whatever_the_bytes(tmp_path: Path, records: list[bytes]) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        for key, data in enumerate(records):
            writer.add_raw(key * 3, data)
    file = RecordFile(tmp_path / "x.rec")
    assert [file.read_raw(key * 3) for key in range(len(records))] == records
    assert 1 not in file
    file.close()
    # Readers that look for the magic number at multiples of four find it at the start of a part, nowhere else.
    content = (tmp_path / "x.rec").read_bytes()
    words = struct.unpack(f"<{len(content) // 4}I", content)
    assert words.count(MAGIC) == sum(len(split_at_magic(data)) for data in records)


def split_at_magic(data: bytes) -> list[bytes]:
    """One word at a time."""
    parts = [b""]
    for start in range(0, len(data), 4):
        word = data[start : start + 4]
        if word == MAGIC_BYTES:
            parts.append(b"")
        else:
            parts[-1] += word
    return parts


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=PIECES.map(b"".join), cut=st.integers(min_value=1))
def test_a_file_that_ends_early_is_a_data_error(tmp_path: Path, data: bytes, cut: int) -> None:
    path = tmp_path / "x.rec"
    with RecordWriter(path) as writer:
        writer.add_raw(0, b"first")
        writer.add_raw(1, data + b"end")  # never only padding at the end
    content = path.read_bytes()
    padding = -len(split_at_magic(data + b"end")[-1]) % 4
    path.write_bytes(content[: max(len(content) - padding - cut, 0)])
    with pytest.raises(DataError, match=r"x\.rec"):
        RecordFile(path).read_raw(1)


def test_a_record_by_hand_from_the_format(tmp_path: Path) -> None:
    """The bytes of one record, written without the writer, so that both cannot be wrong alike."""
    payload = struct.pack("<IfQQ", 2, 0.0, 5, 0) + struct.pack("<2f", 7.0, 1.0) + b"JPEG!"
    record = struct.pack("<II", 0xCED7230A, len(payload)) + payload + b"\0" * (-len(payload) % 4)
    assert len(record) % 4 == 0
    folder = tmp_path
    (folder / "t.rec").write_bytes(record)
    (folder / "t.idx").write_text("5\t0\n")
    read = RecordFile(folder / "t.rec").read(5)
    assert read.labels == (7.0, 1.0)
    assert read.payload == b"JPEG!"


def test_a_set_of_insightface_is_a_set_of_crops(tmp_path: Path) -> None:
    faces = read_record_faces(write_set(tmp_path, [10, 20, 30, 40], [4, 9, 4, 9]))
    assert faces.people == ("4", "9")
    assert faces.labels.tolist() == [0, 1, 0, 1]
    assert faces.crops[np.arange(4)][:, 0, 0, 0].tolist() == [10, 20, 30, 40]


def test_a_set_without_record_0_has_all_its_records(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key, value in ((3, 10), (1, 20)):
            writer.add(key, (float(key),), picture(value))
    faces = read_record_faces(tmp_path)
    assert faces.labels.tolist() == [0, 1]
    assert faces.crops[:][:, 0, 0, 0].tolist() == [20, 10]  # in the order of the keys


@pytest.mark.parametrize("said", [4, 5, 6, 9])
def test_more_pictures_than_a_float32_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: int) -> None:
    monkeypatch.setattr("facekd.recognition.data.record_io.EXACT", 3)
    with RecordWriter(tmp_path / "train.rec") as writer:
        writer.add(0, (said, said + 2))  # rounded; 6 would be right
        for key in range(1, 6):
            writer.add(key, (key % 2,), picture(key))
        for key in (6, 7):
            writer.add(key, (1, 3))
    assert read_record_faces(tmp_path).crops[:][:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]


def test_labels_next_to_the_magic_number_are_found(tmp_path: Path) -> None:
    label = struct.unpack("<f", MAGIC_BYTES)[0]  # -5.6e8: as bytes it is the magic number, so it is cut out
    with RecordWriter(tmp_path / "x.rec") as writer:
        writer.add(1, (label,), b"payload of this record")
    assert RecordFile(tmp_path / "x.rec").label(1) == label


def test_damaged_record_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.idx"):
        read_record_faces(tmp_path)
    write_set(tmp_path, [10, 20], [0, 1])
    record, index = tmp_path / "train.rec", tmp_path / "train.idx"
    content, lines = record.read_bytes(), index.read_text()
    record.write_bytes(content[:200])
    with pytest.raises(DataError, match="copy it again"):
        read_record_faces(tmp_path)
    record.write_bytes(b"")
    with pytest.raises(DataError, match="Cannot read the records"):
        read_record_faces(tmp_path)
    record.write_bytes(content)
    index.write_text("0\t4\n")
    with pytest.raises(DataError, match="no record starts at byte 4"):
        read_record_faces(tmp_path)
    index.write_text("\n".join(line for line in lines.splitlines() if not line.startswith("2\t")))
    with pytest.raises(DataError, match="lacks 2"):
        read_record_faces(tmp_path)
    for broken in ("", "1\n", "1 two\n", "1\t-4\n"):
        index.write_text(broken)
        with pytest.raises(DataError, match="index"):
            read_record_faces(tmp_path)
    index.write_text(lines)
    file = RecordFile(record)
    with pytest.raises(DataError, match="no record 77"):
        file.read(77)
    with RecordWriter(tmp_path / "short.rec") as writer:
        writer.add_raw(1, b"too short")
        writer.add_raw(2, struct.pack("<IfQQ", 1000, 0.0, 0, 0))
    short = RecordFile(tmp_path / "short.rec")
    with pytest.raises(DataError, match="too few"):
        short.label(1)
    with pytest.raises(DataError, match="1000 labels"):
        short.read(2)


# Tars


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_tars_join_and_every_way_of_naming_a_person_counts(tmp_path: Path) -> None:
    first = write_tar(
        tmp_path / "0.tar",
        [
            ("a/001.png", picture(10)),
            ("a/001.cls", b"7\n"),
            ("a/002.json", b'{"identity": "ann", "age": 3}'),
            ("a/002.webp", picture(20)),
            ("a/003.png", picture(30)),
            ("b/001.PNG", picture(40)),
            ("b/001.json", b'{"label": 7}'),
            ("lonely.cls", b"9"),
        ],
    )
    second = write_tar(tmp_path / "1.tar", [("004.jpg", picture(50, 160, "JPEG")), ("004.txt", b"ann")])
    faces = read_webdataset([first, second])
    assert faces.people == ("7", "ann")
    assert faces.labels.tolist() == [0, 1, -1, 0, 1]
    assert faces.crops[:][:, 50, 50, 0].tolist() == [10, 20, 30, 40, 50]


def test_the_surest_source_of_a_name_counts_whatever_the_order(tmp_path: Path) -> None:
    members = [
        ("1.cls", b"7"),  # as tools sort them: cls, jpg, json, txt
        ("1.jpg", picture(10)),
        ("1.json", b'{"width": 112}'),
        ("1.txt", b"a smiling man"),
        ("2.json", b'{"identity": null, "label": "bob"}'),
        ("2.png", picture(20)),
        ("3.json", b'{"identity": null}'),
        ("3.png", picture(30)),
        ("4.txt", b"a caption"),
        ("4.png", picture(40)),
        ("4.json", b'{"identity": "ann"}'),
        ("5.cls", b""),
        ("5.json", b'["no", "table"]'),
        ("5.png", picture(50)),
    ]
    faces = read_webdataset([write_tar(tmp_path / "0.tar", members)])
    names = [(*faces.people, "")[label] for label in faces.labels]
    assert names == ["7", "bob", "", "ann", ""]


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "0.tar", [("a/1.png", picture(1)[:60])])
    with pytest.raises(ImageError, match=r"0\.tar: a/1\.png"):
        read_webdataset([tar]).crops[0]
    with RecordWriter(tmp_path / "train.rec") as writer:
        writer.add(4, (1.0,), b"no picture")
    with pytest.raises(ImageError, match=r"train\.rec: record 4"):
        read_record_faces(tmp_path).crops[0]
    (tmp_path / "people" / "ann").mkdir(parents=True)
    (tmp_path / "people" / "ann" / "x.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"ann.x\.png"):
        read_identity_folders(tmp_path / "people").crops[0]


def test_damaged_tars_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tar"):
        read_webdataset([])
    with pytest.raises(DataError, match="No picture"):
        read_webdataset([write_tar(tmp_path / "e.tar", [("1.cls", b"2")])])
    with pytest.raises(DataError, match="uncompressed"):
        read_webdataset([write_tar(tmp_path / "z.tar", [("1.png", picture(1))], "w:gz")])
    with pytest.raises(DataError, match=r"1\.json"):
        read_webdataset([write_tar(tmp_path / "j.tar", [("1.json", b"{"), ("1.png", picture(1))])])
    noise = np.random.default_rng(0).bytes(5000)
    whole = write_tar(tmp_path / "t.tar", [("1.png", noise)])
    whole.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"t\.tar"):
        read_webdataset([whole])


# Folders


def test_folders_of_people(tmp_path: Path) -> None:
    for name, value in (("bob/1.png", 10), ("ann/x/2.png", 20), ("_unlabelled/3.png", 30), ("4.png", 40)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(value))
    faces = read_identity_folders(tmp_path)
    assert faces.people == ("ann", "bob")
    found = {int(faces.crops[i][0, 0, 0]): int(faces.labels[i]) for i in range(len(faces))}
    assert found == {10: 1, 20: 0, 30: -1, 40: -1}


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="no picture"):
            read_identity_folders(folder)
