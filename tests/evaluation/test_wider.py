"""WIDER FACE's arithmetic against a slow oracle, written loop by loop from the description of the official tool."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from facekd.errors import DataError
from facekd.evaluation.detection import PhotographDetections
from facekd.evaluation.wider import (
    SUBSETS,
    WiderPhotograph,
    normalised,
    overlap_in_whole_pixels,
    read_wider_labels,
    voc_average_precision,
    wider_average_precision,
    wider_figures,
)


def oracle(photographs: list[WiderPhotograph], detections: list[PhotographDetections], subset: str) -> float:
    everything = [float(s) for d in detections for s in d.scores]
    low, high = min(everything), max(everything)
    curve = np.zeros((1000, 2))
    faces = 0
    for photograph, found in zip(photographs, detections, strict=True):
        counted = photograph.subsets[subset]
        faces += int(counted.sum())
        if len(photograph.boxes) == 0 or len(found.scores) == 0:
            continue
        order = sorted(range(len(found.scores)), key=lambda k: -found.scores[k])
        scores = [(float(found.scores[k]) - low) / (high - low) for k in order]
        state = [0] * len(photograph.boxes)
        proposal, recalled = [], []
        for k in order:
            x1, y1, x2, y2 = (float(v) for v in found.boxes[k])
            best, best_face = -1.0, -1
            for face, (a1, b1, a2, b2) in enumerate(photograph.boxes.tolist()):
                width = min(x2, a2) - max(x1, a1) + 1
                height = min(y2, b2) - max(y1, b1) + 1
                inside = width * height if width > 0 and height > 0 else 0.0
                union = (x2 - x1 + 1) * (y2 - y1 + 1) + (a2 - a1 + 1) * (b2 - b1 + 1) - inside
                if inside / union > best:
                    best, best_face = inside / union, face
            good = 1
            if best >= 0.5:
                if not counted[best_face]:
                    state[best_face], good = -1, 0
                elif state[best_face] == 0:
                    state[best_face] = 1
            proposal.append(good)
            recalled.append(state.count(1))
        for t in range(1000):
            passing = [k for k, score in enumerate(scores) if score >= 1 - (t + 1) / 1000]
            if passing:
                curve[t, 0] += sum(proposal[: passing[-1] + 1])
                curve[t, 1] += recalled[passing[-1]]
    precision = [b / a if a else 0.0 for a, b in curve]
    recall = [b / faces for _, b in curve]
    area, before = 0.0, 0.0
    for t in range(1000):
        area += (recall[t] - before) * max(precision[t:])
        before = recall[t]
    return area


def example(seed: int) -> tuple[list[WiderPhotograph], list[PhotographDetections]]:
    rng = np.random.default_rng(seed)
    photographs, detections = [], []
    for number in range(15):
        faces = int(rng.integers(0, 8))
        boxes = rng.integers(0, 60, (faces, 4)).astype(np.float32)
        boxes[:, 2:] = boxes[:, :2] + rng.integers(3, 25, (faces, 2))
        hard = rng.random(faces) < 0.8
        medium = hard & (rng.random(faces) < 0.7)
        subsets = {"easy": medium & (rng.random(faces) < 0.6), "medium": medium, "hard": hard}
        photographs.append(WiderPhotograph(f"e/{number}.jpg", boxes, subsets))
        near = np.repeat(boxes, 2, axis=0) + rng.normal(0, 2, (2 * faces, 4))
        others = rng.uniform(0, 60, (int(rng.integers(0, 6)), 4))
        others[:, 2:] = others[:, :2] + 10
        both = np.concatenate([near, others])[rng.permutation(2 * faces + len(others))]
        detections.append(PhotographDetections(both, rng.uniform(0.02, 0.97, len(both)).round(2)))
    return photographs, detections


@pytest.mark.parametrize("seed", range(6))
def test_against_the_oracle(seed: int) -> None:
    photographs, detections = example(seed)
    figures = wider_figures(photographs, detections)
    for subset in SUBSETS:
        assert figures[subset] == pytest.approx(oracle(photographs, detections, subset), abs=1e-12)
    assert figures["photographs"] == 15


def one(*faces: tuple[float, ...], counted: list[bool]) -> list[WiderPhotograph]:
    flags = np.array(counted, bool)
    return [WiderPhotograph("e/1.jpg", np.array(faces, np.float32).reshape(-1, 4), dict.fromkeys(SUBSETS, flags))]


def found(*scored: tuple[float, ...]) -> list[PhotographDetections]:
    table = np.array(scored, np.float64).reshape(-1, 5)
    return [PhotographDetections(table[:, :4], table[:, 4])]


A, B, FAR = (0, 0, 10, 10), (20, 20, 30, 30), (50, 50, 60, 60)


@pytest.mark.parametrize(
    ("photographs", "detections", "ap"),
    [
        pytest.param([], [], math.nan, id="nothing at all"),
        pytest.param(one(A, counted=[False]), found((*A, 0.9)), math.nan, id="no face counted"),
        pytest.param(one(A, counted=[True]), found(), 0.0, id="nothing found"),
        pytest.param(one(A, counted=[True]), found((*A, 0.9)), 1.0, id="one score: all pass"),
        pytest.param(one(A, B, counted=[True, False]), found((*B, 0.9), (*A, 0.1)), 1.0, id="outside the subset"),
        # Unlike the AP of detection.py: the weaker one falls on a face that is held already, and stays a false alarm.
        pytest.param(one(A, B, counted=[True, True]), found((*A, 0.9), (*A, 0.5), (*B, 0.1)), 5 / 6, id="found twice"),
        pytest.param(one(counted=[]), found((*FAR, 0.9)), math.nan, id="false alarms without faces do not count"),
    ],
)
def test_by_hand(photographs: list[WiderPhotograph], detections: list[PhotographDetections], ap: float) -> None:
    ordered = normalised(detections)
    assert wider_average_precision(photographs, ordered, "easy") == pytest.approx(ap, nan_ok=True)


def test_a_photograph_without_faces_gives_no_false_alarm() -> None:
    photographs = one(A, counted=[True]) + one(counted=[])
    detections = found((*A, 0.1)) + found((*FAR, 0.9))
    assert wider_average_precision(photographs, normalised(detections), "hard") == 1.0


def test_overlap_counts_whole_pixels() -> None:
    # 3 x 1 pixels shared of 3 x 3 and 3 x 3.
    overlap = overlap_in_whole_pixels(np.array([[0, 0, 2, 2]]), np.array([[0, 2, 2, 4], [9, 9, 9, 9]]))
    np.testing.assert_allclose(overlap, [[3 / 15, 0]])


def test_voc_average_precision_takes_the_envelope() -> None:
    assert voc_average_precision(np.array([0.0, 0.5, 0.5, 1.0]), np.array([0.0, 0.5, 0.4, 0.6])) == pytest.approx(0.6)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_text_labels(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("# e/a b.jpg 100 50\n1 2 3 4 0 1 1\n5 6 7 8 0 0 0\n# e/c.jpg 10 10\n", encoding=encoding)
    first, second = read_wider_labels(path)
    assert first.name == "e/a b.jpg"
    np.testing.assert_array_equal(first.boxes, [[1, 2, 4, 6], [5, 6, 12, 14]])
    assert {name: flags.tolist() for name, flags in first.subsets.items()} == {
        "easy": [False, False],
        "medium": [True, False],
        "hard": [True, False],
    }
    assert second.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "said"), [("1 2 3 4 0 0 1\n", "line 1"), ("# a 1 1\n1 2 3 4 2 0 0\n", "line 2"), ("# a\n", "width height")]
)
def test_text_errors(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_wider_labels(path)


def test_mat_labels(tmp_path: Path) -> None:
    def cells(*items: object) -> np.ndarray:
        table = np.empty((len(items), 1), object)
        table[:, 0] = items
        return table

    savemat(
        tmp_path / "wider_face_val.mat",
        {
            "event_list": cells("0--Parade", "1--Meeting"),
            "file_list": cells(cells("a"), cells("b")),
            "face_bbx_list": cells(cells(np.array([[1, 2, 3, 4], [5, 6, 7, 8]])), cells(np.array([[9, 9, 1, 1]]))),
        },
    )
    kept = {"easy": np.zeros((0, 1)), "medium": np.array([[2]]), "hard": np.array([[1], [2]])}
    for subset, numbers in kept.items():
        savemat(tmp_path / f"wider_{subset}_val.mat", {"gt_list": cells(cells(numbers), cells(np.array([[1]])))})
    first, second = read_wider_labels(tmp_path)
    assert (first.name, second.name) == ("0--Parade/a.jpg", "1--Meeting/b.jpg")
    np.testing.assert_array_equal(first.boxes, [[1, 2, 4, 6], [5, 6, 12, 14]])
    assert [first.subsets[name].tolist() for name in SUBSETS] == [[False, False], [False, True], [True, True]]
    assert second.subsets["easy"].tolist() == [True]


def test_mat_folder_without_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="official evaluation tools"):
        read_wider_labels(tmp_path)
