"""Quality: each reason for its cause and no other, and most real photographs without any."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from facekd.images import load_image
from facekd.recognition.align import TEMPLATE, align_face
from facekd.recognition.quality import REASONS, Quality, face_quality


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """A textured stand-in for a face, in a picture of 400x400 whose crop is shown at its own scale."""
    random = np.random.default_rng(0)
    # Coarse forms and fine detail, as photographs have both: blur takes the second and leaves the first.
    grey = sum(
        weight * cv2.resize(random.random((side, side), np.float32), (400, 400), interpolation=cv2.INTER_LINEAR)
        for weight, side in ((120, 16), (60, 150))
    )
    return np.repeat((40 + grey)[..., None], 3, axis=2).astype(np.uint8)


def judge(image: np.ndarray, points: np.ndarray) -> Quality:
    middle, width = points.mean(0), np.linalg.norm(TEMPLATE[1] - TEMPLATE[0]) / 0.45
    width *= np.sqrt(((points - middle) ** 2).sum() / ((TEMPLATE - TEMPLATE.mean(0)) ** 2).sum())
    half = np.array([width / 2, width * 0.6])
    box = np.concatenate([middle - half, middle + half])
    return face_quality(image, points, box, align_face(image, points))


FRONTAL = TEMPLATE + 144
TURNED = FRONTAL + np.array([[0, 0], [0, 0], [20, 0], [0, 0], [0, 0]])
NODDING = FRONTAL + np.array([[0, 0], [0, 0], [0, 16], [0, 0], [0, 0]])


def rolled(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (FRONTAL - 200) @ rotation.T + 200


@pytest.mark.parametrize(
    ("change", "points", "reasons"),
    [
        (lambda x: x, FRONTAL, ()),
        (lambda x: x, rolled(20), ()),
        (lambda x: x, rolled(70), ("tilted",)),
        (lambda x: x, TURNED, ("turned",)),
        (lambda x: x, NODDING, ("tilted",)),
        (lambda x: cv2.GaussianBlur(x, (0, 0), 6), FRONTAL, ("blurred",)),
        (lambda x: (x * 0.25).astype(np.uint8), FRONTAL, ("dark",)),
        (lambda x: np.clip(x.astype(int) + 150, 0, 255).astype(np.uint8), FRONTAL, ("bright",)),
        (lambda x: (x * 0.05 + 200).astype(np.uint8), FRONTAL, ("bright",)),  # fog
    ],
    ids=["good", "rolled a little", "rolled", "turned", "nodding", "blurred", "dark", "overexposed", "fog"],
)
def test_each_reason(portrait: np.ndarray, change, points: np.ndarray, reasons: tuple[str, ...]) -> None:
    quality = judge(change(portrait), points)
    assert quality.reasons == reasons
    assert 0 <= quality.score <= 1
    assert (quality.score > 0.5) == (reasons == ())


def test_small_is_small_but_not_blurred(portrait: np.ndarray) -> None:
    for factor, reasons in ((0.6, ()), (0.35, ("too-small",)), (0.2, ("too-small",))):
        small = cv2.resize(portrait, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        assert judge(small, (FRONTAL + 0.5) * factor - 0.5).reasons == reasons, factor


def test_half_outside_the_picture_scores_less(portrait: np.ndarray) -> None:
    inside = judge(portrait, FRONTAL)
    cut = portrait[:, 200:]
    outside = face_quality(cut, FRONTAL - [200, 0], [-39, 153, 39, 247], align_face(portrait, FRONTAL))
    assert outside.score < 0.5 * inside.score


def test_degenerate_input(portrait: np.ndarray) -> None:
    with pytest.raises(ValueError, match="crop"):
        face_quality(portrait, FRONTAL, [0, 0, 9, 9], portrait)
    upside_down = FRONTAL[[0, 1, 2, 3, 4]] * [1, 1]
    upside_down[3:, 1] = FRONTAL[0, 1] - 30  # the mouth above the eyes
    assert "tilted" in face_quality(portrait, upside_down, [150, 150, 240, 240], align_face(portrait, FRONTAL)).reasons
    flat = np.full((112, 112, 3), 128, np.uint8)
    assert face_quality(portrait, FRONTAL, [5, 5, 5, 5], flat).score == 0  # a box without area


def test_json_form() -> None:
    assert Quality(0.123456, ("dark", "turned")).to_dict() == {"score": 0.1235, "reasons": ["dark", "turned"]}
    assert REASONS == ("too-small", "blurred", "dark", "bright", "turned", "tilted")


def _lfw(shared_data: Path, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    with (shared_data / "lfw" / "landmarks.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, count).astype(int)]
    with zipfile.ZipFile(shared_data / "lfw" / "photographs.zip") as archive:
        members = {tuple(name.split("/")[-2:]): name for name in archive.namelist()}
        return [
            (
                load_image(archive.read(members[tuple(row["file"].split("/")[-2:])])),
                np.array([float(value) for value in list(row.values())[1:11]]).reshape(5, 2),
            )
            for row in chosen
        ]


def test_real_photographs(shared_data: Path) -> None:
    faces = _lfw(shared_data, 60)
    good = [judge(image, points) for image, points in faces]
    assert sum(not quality.reasons for quality in good) >= 0.9 * len(good)
    small = [
        judge(cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA), (points + 0.5) / 4 - 0.5)
        for image, points in faces
    ]
    assert all("too-small" in quality.reasons for quality in small)
    assert sum("blurred" in quality.reasons for quality in small) <= 0.05 * len(small)
    blurred = [judge(cv2.GaussianBlur(image, (0, 0), 3), points) for image, points in faces]
    assert sum("blurred" in quality.reasons for quality in blurred) >= 0.8 * len(blurred)


def test_dark_skin_is_not_darkness(shared_data: Path) -> None:
    with (shared_data / "faces" / "faces.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["shard"] == "val-0.zip" and row["ethnicity"]]
    flagged: dict[str, list[bool]] = {}
    with zipfile.ZipFile(shared_data / "faces" / "val-0.zip") as archive:
        for row in rows[:400]:
            crop = np.asarray(Image.open(io.BytesIO(archive.read(row["file"]))).convert("RGB"))
            quality = face_quality(crop, TEMPLATE, [15, 20, 97, 120], crop)
            flagged.setdefault(row["ethnicity"], []).append("dark" in quality.reasons)
    assert {"black", "white"} <= set(flagged)
    assert all(np.mean(answers) <= 0.05 for answers in flagged.values()), flagged
