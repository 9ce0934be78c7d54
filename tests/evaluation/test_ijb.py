"""IJB's templates against a loop, and its lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.evaluation.ijb import ijb_scores, read_ijb, template_embeddings


def test_templates_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(40, 6))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    templates, media = rng.integers(0, 7, 40), rng.integers(0, 4, 40)
    weights = rng.random(40)
    numbers, matrix = template_embeddings(embeddings, templates, media, weights)
    assert numbers.tolist() == sorted(set(templates.tolist()))
    for number, row in zip(numbers, matrix, strict=True):
        total = np.zeros(6)
        for medium in sorted(set(media[templates == number].tolist())):
            chosen = np.flatnonzero((templates == number) & (media == medium))
            total += sum(weights[k] * embeddings[k] for k in chosen) / len(chosen)
        np.testing.assert_allclose(row, total / np.linalg.norm(total), atol=1e-6)


def test_no_faces_and_faces_that_were_not_found() -> None:
    none = np.empty(0, np.int64)
    numbers, matrix = template_embeddings(np.empty((0, 4)), none, none)
    assert (len(numbers), matrix.shape) == (0, (0, 4))
    _, matrix = template_embeddings(np.zeros((2, 4)), np.array([1, 1]), np.array([1, 2]))
    assert (matrix == 0).all()


def write(root: Path, faces: str, pairs: str, points: str | None = None) -> Path:
    meta = root / "meta"
    meta.mkdir(exist_ok=True)
    (meta / "ijbc_face_tid_mid.txt").write_text(faces)
    (meta / "ijbc_template_pair_label.txt").write_text(pairs)
    names = [line.split()[0] for line in faces.splitlines()]
    default = "".join(f"{name} {' '.join(str(k) for k in range(10))} 0.5\n" for name in names)
    (meta / "ijbc_name_5pts_score.txt").write_text(points or default)
    return root


def test_lists_saved_by_a_spreadsheet(tmp_path: Path, saved_by_spreadsheet: Callable[[Path], None]) -> None:
    write(tmp_path, "1.jpg 1 10\n2.jpg 2 11\n3.jpg 3 12\n", "1 2 1\n1 3 0\n")
    saved_by_spreadsheet(tmp_path)
    assert read_ijb(tmp_path).files == ("1.jpg", "2.jpg", "3.jpg")


def test_protocol(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg 1 10\n2.jpg 1 10\n3.jpg 2 11\n4.jpg 3 12\n", "1 2 1\n1 3 0\n2 3 0\n")
    protocol = read_ijb(tmp_path)
    assert protocol.files == ("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    assert protocol.landmarks.shape == (4, 5, 2)
    assert protocol.landmarks[0, 1].tolist() == [2, 3]
    assert protocol.detection_scores.tolist() == [0.5] * 4
    a, b = [1.0, 0.0], [0.0, 1.0]
    figures = ijb_scores(protocol, np.array([a, a, a, b]), chunk=2).figures()
    assert figures == {"tar": {}, "eer": 0.0, "templates": 3, "pairs": 3}  # two impostors show no rate below a half
    many = write(tmp_path, "1.jpg 1 1\n2.jpg 2 2\n3.jpg 3 3\n", "1 2 1\n" * 5 + "1 3 0\n" * 100)
    figures = ijb_scores(read_ijb(many), np.array([a, a, b])).figures()
    assert figures["tar"] == {"1e-1": 1.0, "1e-2": 1.0}


@pytest.mark.parametrize("media", [(10, 10), (10, 11)], ids=["one medium", "two media"])
def test_faces_weigh_by_their_detection_scores(tmp_path: Path, media: tuple[int, int]) -> None:
    points = "".join(f"{k}.jpg {'0 ' * 10}{score}\n" for k, score in ((1, 0.9), (2, 0.1), (3, 0.5), (4, 0.5)))
    faces = f"1.jpg 1 {media[0]}\n2.jpg 1 {media[1]}\n3.jpg 2 12\n4.jpg 3 13\n"
    protocol = read_ijb(write(tmp_path, faces, "1 2 1\n1 3 0\n", points))
    a, b = [1.0, 0.0], [0.0, 1.0]
    scores = ijb_scores(protocol, np.array([a, b, a, b])).scores
    assert scores == pytest.approx(np.array([0.9, 0.1]) / np.hypot(0.9, 0.1))


@pytest.mark.parametrize(
    ("faces", "pairs", "points", "said"),
    [
        ("1.jpg 1\n", "1 1 1\n", None, "line 1: 2 columns"),
        ("1.jpg 1 1\n", "1 2 1\n1 1 0\n", None, r"without faces: \[2\]"),
        ("1.jpg 1 x\n", "1 1 1\n1 1 0\n", None, "no number"),
        ("1.jpg 1 1\n", "1 1 1\n", "2.jpg " + "0 " * 10 + "1\n", "same files"),
    ],
)
def test_lists_with_errors(tmp_path: Path, faces: str, pairs: str, points: str | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_ijb(write(tmp_path, faces, pairs, points))


def test_comparisons_of_one_kind_show_no_error_rate(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 mated and 0 non-mated"):
        read_ijb(write(tmp_path, "1.jpg 1 10\n2.jpg 2 11\n", "1 2 1\n"))


def test_no_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found 0"):
        read_ijb(tmp_path)
