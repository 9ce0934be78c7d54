"""Lists of pairs in every form that is read, and who is in their photographs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekd import cli
from facekd.errors import DataError
from facekd.evaluation.pair_files import read_pair_list
from facekd.evaluation.pair_people import first_word, folder, numbered, person_of, with_age
from facekd.images import save_image


def test_two_lines_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "pairs_CPLFW.txt"
    path.write_text("a.jpg 1\nb.jpg 1\nc.jpg 7\nd.jpg 7\ne.jpg 0\nf.jpg 0\n")
    pairs = read_pair_list(path)
    assert (pairs.first, pairs.second) == (("a.jpg", "c.jpg", "e.jpg"), ("b.jpg", "d.jpg", "f.jpg"))
    assert pairs.same.tolist() == [True, True, False]
    assert pairs.folds.tolist() == [0, 5, 0]


@pytest.mark.parametrize(
    "text",
    [
        "a/1.jpg a/2.jpg 1\nb/1.jpg b/2.jpg 1\n\na/1.jpg b/1.jpg 0\n",
        "1 a/1.jpg a/2.jpg\n1 b/1.jpg b/2.jpg\n0 a/1.jpg b/1.jpg\n",
        "\ufeffa/1.jpg, a/2.jpg, 1\nb/1.jpg,b/2.jpg,1\na/1.jpg,b/1.jpg,0\n",
    ],
)
def test_one_line_a_pair(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.txt").write_text(text, encoding="utf-8")
    pairs = read_pair_list(tmp_path / "pairs.txt")
    assert pairs.first == ("a/1.jpg", "b/1.jpg", "a/1.jpg")
    assert pairs.second == ("a/2.jpg", "b/2.jpg", "b/1.jpg")
    assert pairs.same.tolist() == [True, True, False]
    assert pairs.folds.tolist() == [0, 5, 0]


def test_photographs_by_number(tmp_path: Path) -> None:
    (tmp_path / "African_pairs.txt").write_text("m.01\t1\t3\nm.02\t2\t1\nm.01\t1\tm.02\t2\n")
    pairs = read_pair_list(tmp_path / "African_pairs.txt")
    assert pairs.first == ("m.01/m.01_0001.jpg", "m.02/m.02_0002.jpg", "m.01/m.01_0001.jpg")
    assert pairs.second == ("m.01/m.01_0003.jpg", "m.02/m.02_0001.jpg", "m.02/m.02_0002.jpg")
    assert pairs.same.tolist() == [True, True, False]
    assert person_of(pairs) is numbered


def test_names_with_blanks(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("Ada L/1.jpg,Ada L/2.jpg,1\nBob/1 .jpg,Bob/2.jpg,1\nAda L/1.jpg,Bob/2.jpg,0\n")
    assert read_pair_list(tmp_path / "pairs.csv").first == ("Ada L/1.jpg", "Bob/1 .jpg", "Ada L/1.jpg")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; wanted one line a pair"),
        ("a.jpg 1\n", "1 lines; a pair has two"),
        ("a.jpg 1\nb.jpg 0\n", "contradict"),
        ("a.jpg 1\nb.jpg\n", "line 2: 1 words, the first line has 2"),
        ("a.jpg 1\nb.jpg x\n", "line 1: wanted two lines"),
        ("10\t300\nAda\t1\t2\n", "use facekd evaluate lfw"),
        ("a.jpg b.jpg 1\na.jpg c.jpg 2\n", "line 2: no label 0 or 1"),
        ("a.jpg b.jpg c.jpg 1\n", "has 4 words"),
        ("a.jpg b.jpg 1\nb.jpg c.jpg 1\n", "2 of 2 pairs are mated; error rates need both"),
        ("a.jpg b.jpg 1\nb.jpg c.jpg 0\n", "one fold"),
    ],
)
def test_lists_with_errors(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        read_pair_list(tmp_path / "pairs.txt")


def write_agedb(path: Path, folds: list[list[tuple[str, str, int]]]) -> Path:
    """A protocol as AgeDB's is laid out; field names are made up, since nobody reads them."""
    from scipy.io import savemat

    def photograph(name: str) -> dict[str, object]:
        return {"name": name, "age": 30}

    splits = np.empty((len(folds), 1), object)
    for number, fold in enumerate(folds):
        names = np.empty((2, len(fold)), object)
        for column, (one, other, _) in enumerate(fold):
            names[0, column], names[1, column] = photograph(one), photograph(other)
        splits[number, 0] = {"photographs": names, "labels": np.array([[label for *_, label in fold]], np.int16)}
    savemat(path, {"splits": splits})
    return path


def test_agedb(tmp_path: Path) -> None:
    folds = [
        [("1_Ada_0_20_f", "1_Ada_3_50_f", 1), ("1_Ada_0_20_f", "2_Bob_Lee_1_49_m", -1)],
        [("2_Bob_Lee_1_49_m", "2_Bob_Lee_7_79_m", 1), ("2_Bob_Lee_7_79_m", "1_Ada_3_50_f", -1)],
    ]
    pairs = read_pair_list(write_agedb(tmp_path / "04_FINAL_protocol_30_years.mat", folds))
    assert pairs.first == ("1_Ada_0_20_f.jpg", "1_Ada_0_20_f.jpg", "2_Bob_Lee_1_49_m.jpg", "2_Bob_Lee_7_79_m.jpg")
    assert pairs.second[1] == "2_Bob_Lee_1_49_m.jpg"
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [0, 0, 1, 1]
    assert person_of(pairs) is first_word


@pytest.mark.usefixtures("fake_zoo")
def test_the_command_reads_agedb(
    tmp_path: Path, paint_face: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    for person, name in enumerate(("1_Ada_0_20_f", "1_Ada_3_50_f", "2_Bob_1_49_m", "2_Bob_7_79_m")):
        image = np.full((200, 200, 3), 128, np.uint8)
        paint_face(image, 60, 60, 70 + 5 * (person % 2), person=person // 2)
        save_image(tmp_path / f"{name}.png", image)
        (tmp_path / f"{name}.png").rename(tmp_path / f"{name}.jpg")
    fold = [("1_Ada_0_20_f", "1_Ada_3_50_f", 1), ("2_Bob_1_49_m", "2_Bob_7_79_m", 1)]
    fold += [("1_Ada_0_20_f", "2_Bob_7_79_m", -1), ("2_Bob_1_49_m", "1_Ada_3_50_f", -1)]
    path = write_agedb(tmp_path / "04_FINAL_protocol_30_years.mat", [fold, fold])
    assert cli.run(["evaluate", "pairs", str(path), str(tmp_path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["accuracy"], figures["pairs"], figures["undetected"]) == (1.0, 8, 0)
    assert set(figures["interval"]) == {"accuracy", "1e-2", "1e-3"}


def test_agedb_laid_out_otherwise(tmp_path: Path) -> None:
    from scipy.io import savemat

    path = tmp_path / "x.mat"
    path.write_bytes(b"no such thing")
    with pytest.raises(DataError, match="Cannot read"):
        read_pair_list(path)
    savemat(path, {"other": np.zeros(3)})
    with pytest.raises(DataError, match="holds other, not 'splits'"):
        read_pair_list(path)
    savemat(path, {"splits": np.zeros((10, 1))})
    with pytest.raises(DataError, match="laid out otherwise"):
        read_pair_list(path)
    with pytest.raises(DataError, match=r"laid out otherwise .* labels \[1, 2\]"):
        read_pair_list(write_agedb(path, [[("1_a", "1_b", 1), ("1_a", "2_b", 2)]]))


def test_people_by_the_names_of_photographs() -> None:
    assert [numbered(name) for name in ("x/Ada_B_2.jpg", "Cy_1.jpg", "1.jpg")] == ["Ada_B", "Cy", ""]
    assert [with_age(name) for name in ("0_MariaCallas_35_f.jpg", "x/1_A_B_7_m.png", "1_A.jpg")] == [
        "MariaCallas",
        "A_B",
        "",
    ]
    assert [folder(name) for name in ("Ada/1.jpg", "x/Ada/1.jpg", "1.jpg")] == ["Ada", "Ada", ""]
    assert [first_word(name) for name in ("x/12_Ada_3.jpg", "1.jpg")] == ["12", ""]


@pytest.mark.parametrize(
    ("lines", "form"),
    [
        (["Ada_B_0001.jpg x/Ada_B_2.jpg 1", "Ada_B_2.jpg Cy_1.jpg 0"], numbered),
        (["0_Ada_20_f.jpg 1_Ada_50_f.jpg 1", "0_Ada_20_f.jpg 2_Bob_50_m.jpg 0"], with_age),
        (["Ada/1.jpg Ada/2.jpg 1", "Ada/1.jpg Bob/1.jpg 0"], folder),
        (["images/1.jpg images/2.jpg 1", "images/1.jpg images/3.jpg 0"], None),
        (["Ada_1.jpg Bob_1.jpg 1", "Ada_1.jpg Cy_1.jpg 0"], None),
    ],
)
def test_a_form_is_believed_only_if_all_pairs_agree(tmp_path: Path, lines: list[str], form: object) -> None:
    (tmp_path / "pairs.txt").write_text("\n".join([*lines, *lines]))
    assert person_of(read_pair_list(tmp_path / "pairs.txt")) is form
