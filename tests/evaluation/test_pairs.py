"""Pair protocols: LFW's and CFP's own files, InsightFace's .bin, and scores of pairs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.evaluation.cfp import read_cfp
from facekd.evaluation.insightface_bin import read_bin
from facekd.evaluation.lfw import LfwPhotographs, read_landmarks, read_pairs
from facekd.evaluation.pairs import PairList, pair_scores

PAIRS = "2\t2\nAda\t1\t2\nBob\t1\t3\nAda\t1\tBob\t2\nBob\t1\tCy\t4\nCy\t1\t2\nCy\t1\t3\nAda\t2\tCy\t1\nBob\t2\tAda\t1\n"


def pairs() -> PairList:
    return PairList(
        ("a", "c", "a", "c"), ("b", "d", "d", "b"), np.array([True, True, False, False]), np.array([0, 1, 0, 1])
    )


def test_a_face_that_is_not_found_scores_nothing() -> None:
    one, other = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    seen = {"a": one, "b": other, "c": one, "d": None}
    np.testing.assert_allclose(pair_scores(pairs(), seen), [0.6, 0, 0, 0.6])
    np.testing.assert_allclose(pair_scores(pairs(), seen, {"b": one, "d": one}), [1, 1, 1, 1])
    with pytest.raises(KeyError):
        pair_scores(pairs(), {"a": one})


def test_lists_of_photographs() -> None:
    assert pairs().photographs() == ["a", "c", "b", "d"]
    assert pairs().references() == ["a", "c"]
    assert pairs().probes() == ["b", "d"]
    assert len(pairs().part(1)) == 4
    assert len(pairs().part(0)) == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lfw_pairs(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(PAIRS, encoding=encoding)
    listed = read_pairs(path)
    assert listed.first[:3] == ("Ada/Ada_0001", "Bob/Bob_0001", "Ada/Ada_0001")
    assert listed.second[:3] == ("Ada/Ada_0002", "Bob/Bob_0003", "Bob/Bob_0002")
    assert listed.same.tolist() == [True, True, False, False] * 2
    assert listed.folds.tolist() == [0] * 4 + [1] * 4
    part = listed.part(1)
    assert part.first == ("Ada/Ada_0001", "Ada/Ada_0001", "Cy/Cy_0001", "Ada/Ada_0002")
    assert part.folds.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line"),
        ("2\nAda\t1\t2\n", "first line"),
        ("1\t1\nAda\t1\t2\n", "1 pairs; 1 folds of 1"),
        ("1\t1\nAda\t1\t2\tx\nAda\t1\tBob\t2\n", "line 2"),
        ("1\t1\nAda\t1\t2\nAda\t1\t2\n", "line 3"),
    ],
)
def test_lfw_pairs_with_errors(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_pairs(path)


def test_lfw_photographs_and_landmarks(tmp_path: Path) -> None:
    for folder in ("lfw/Ada", "lfw/Bob"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lfw/Ada/Ada_0001.jpg").write_bytes(b"ada")
    (tmp_path / "lfw/Bob/Bob_0001.png").write_bytes(b"bob")
    (tmp_path / "pairs.txt").write_text(PAIRS, encoding="utf-8")
    photographs = LfwPhotographs(tmp_path)
    assert len(photographs) == 2
    assert photographs.read("Bob/Bob_0001") == b"bob"
    assert photographs.file_name("Bob/Bob_0001") == "Bob_0001.png"
    with pytest.raises(DataError, match="Cy_0001"):
        photographs.read("Cy/Cy_0001")
    photographs.require(["Ada/Ada_0001", "Bob/Bob_0001"], "pairs.txt")
    with pytest.raises(DataError, match=r"1 of the 2 photographs in pairs.txt are not in .*: Cy/Cy_0001$"):
        photographs.require(["Ada/Ada_0001", "Cy/Cy_0001"], "pairs.txt")
    with pytest.raises(DataError, match="--mode whole"):
        read_landmarks(tmp_path / "landmarks.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No photographs"):
        LfwPhotographs(tmp_path / "empty")


LANDMARK_COLUMNS = ",".join(
    f"{point}_{axis}" for point in ["left_eye", "right_eye", "nose", "left_mouth", "right_mouth"] for axis in "xy"
)
ADA = "Ada/Ada_0001.webp," + ",".join("0123456789") + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lfw_landmarks(tmp_path: Path, encoding: str) -> None:
    table = tmp_path / "landmarks.csv"
    table.write_text(f"file,{LANDMARK_COLUMNS}\n{ADA}{ADA}", encoding=encoding)  # one line twice says the same
    landmarks = read_landmarks(table)
    assert list(landmarks) == ["Ada/Ada_0001"]
    np.testing.assert_array_equal(landmarks["Ada/Ada_0001"], np.arange(10).reshape(5, 2))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "lists no photograph"),
        (ADA.replace("9", "nan"), "line 2: a point of Ada/Ada_0001 is not finite"),
        (ADA + ADA.replace("Ada_0001", "Ada_0002").replace("5", "-inf"), "line 3: a point of Ada/Ada_0002"),
        (ADA + ADA.replace("9", "8"), "line 3: an earlier line has other points of Ada/Ada_0001"),
        (ADA.replace(",9", ""), "--mode whole"),
    ],
)
def test_lfw_landmarks_with_errors(tmp_path: Path, lines: str, said: str) -> None:
    (tmp_path / "landmarks.csv").write_text(f"file,{LANDMARK_COLUMNS}\n{lines}")
    with pytest.raises(DataError, match=said):
        read_landmarks(tmp_path / "landmarks.csv")


def cfp_folder(root: Path, below: str = "") -> Path:
    for person in ("001", "002"):
        for pose, count in (("frontal", 2), ("profile", 1)):
            folder = root / "Data" / "Images" / below / person / pose
            folder.mkdir(parents=True)
            for k in range(1, count + 1):
                (folder / f"{k:02d}.jpg").write_bytes(b"x")
    protocol = root / "Protocol"
    protocol.mkdir()
    frontal = [f"../Data/Images/{p}/frontal/{k:02d}.jpg" for p in ("001", "002") for k in (1, 2)]
    profile = [f"../Data/Images/{p}/profile/01.jpg" for p in ("001", "002")]
    for kind, files in (("F", frontal), ("P", profile)):
        lines = [f"{k} {file}" for k, file in enumerate(files, start=1)]
        (protocol / f"Pair_list_{kind}.txt").write_text("\n".join(lines) + "\n")
    for name, same, diff in (("FF", "1,2", "1,3"), ("FP", "3,2", "1,2")):
        for fold in ("01", "02"):
            folder = protocol / "Split" / name / fold
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text(same + "\n")
            (folder / "diff.txt").write_text(diff + "\n")
    return root


@pytest.mark.parametrize("below", ["", "train", "test"])
def test_cfp(tmp_path: Path, below: str) -> None:
    protocols = read_cfp(cfp_folder(tmp_path, below))
    middle = f"{below}/" if below else ""
    assert protocols["FF"].second[:2] == (
        f"Data/Images/{middle}001/frontal/02.jpg",
        f"Data/Images/{middle}002/frontal/01.jpg",
    )
    assert protocols["FP"].first[0] == f"Data/Images/{middle}002/frontal/01.jpg"
    assert protocols["FP"].second[0] == f"Data/Images/{middle}002/profile/01.jpg"
    assert protocols["FP"].same.tolist() == [True, False, True, False]
    assert protocols["FP"].folds.tolist() == [0, 0, 1, 1]
    assert all((tmp_path / name).is_file() for p in protocols.values() for name in p.photographs())


def test_cfp_saved_by_a_spreadsheet(tmp_path: Path, saved_by_spreadsheet: Callable[[Path], None]) -> None:
    cfp_folder(tmp_path)
    saved_by_spreadsheet(tmp_path / "Protocol")
    assert read_cfp(tmp_path)["FF"].second[:2] == ("Data/Images/001/frontal/02.jpg", "Data/Images/002/frontal/01.jpg")


def test_cfp_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Data.Images"):
        read_cfp(tmp_path)
    cfp_folder(tmp_path)
    (tmp_path / "Protocol/Split/FP/02/diff.txt").write_text("1,99\n")
    with pytest.raises(DataError, match="'1,99' is no pair"):
        read_cfp(tmp_path)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", ["bytes", "array"])
def test_insightface_bin(tmp_path: Path, protocol: int, kind: str) -> None:
    pictures: list[object] = [b"a", b"b", b"c", b"d"]
    if kind == "array":
        pictures = [np.frombuffer(picture, np.uint8) for picture in pictures]  # type: ignore[arg-type]
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps((pictures, [True, np.bool_(False)]), protocol))
    encoded, listed = read_bin(path)
    assert encoded == {"0": b"a", "1": b"b", "2": b"c", "3": b"d"}
    assert (listed.first, listed.second) == (("0", "2"), ("1", "3"))
    assert listed.same.tolist() == [True, False]
    assert listed.folds.tolist() == [0, 5]


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch should_not_exist",)


def test_hostile_bin_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps(([b"a", Hostile()], [True])))
    with pytest.raises(DataError, match="system"):
        read_bin(path)
    assert not (tmp_path / "should_not_exist").exists()


@pytest.mark.parametrize("content", [[], ([b"a"], [True]), ([b"a", "b"], [True]), ({}, []), ([], [])])
def test_bin_of_another_kind(tmp_path: Path, content: object) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError):
        read_bin(path)
