"""Protocols meet an embedder whose answers are known: the mean colour of a crop is the person."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekd import cli
from facekd.cli import evaluate_crops as crops_commands
from facekd.cli import evaluate_pairs as pairs_commands
from facekd.detection.detector import Detection
from facekd.errors import ConfigError, DataError
from facekd.evaluation.cfp import person_of
from facekd.evaluation.masked import draw_mask, mask_kind
from facekd.evaluation.pair_files import read_pair_list
from facekd.evaluation.photographs import Photographs
from facekd.images import ImageSource, load_image
from facekd.recognition.align import TEMPLATE
from facekd.recognition.calibrate import calibrate_crops
from facekd.recognition.error_sheet import error_sheet, save_lfw_sheet, save_photograph_sheet, worst_pairs
from facekd.recognition.evaluate import (
    embed_crops,
    evaluate_bin,
    evaluate_cfp,
    evaluate_ijb,
    evaluate_lfw,
    evaluate_list,
)
from facekd.recognition.evaluate_crops import CropTable, crop_embeddings, evaluate_crops, evaluate_mask, read_crop_table
from facekd.recognition.mask import MaskResult

Answer = Callable[..., dict[str, Any]]

COLOURS = {"Ada": (200, 40, 40), "Bob": (40, 200, 40), "Cy": (40, 40, 200)}


class ByColour:
    """Embeds a crop as its mean colour, centred."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed(self, crops: np.ndarray) -> np.ndarray:
        self.batches.append(len(crops))
        rows = crops.reshape(len(crops), -1, 3).mean(axis=1) - 93.0
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Whole:
    """Finds a face that fills a bright picture, none in a black one."""

    def detect(self, image: ImageSource) -> Sequence[Detection]:
        picture = load_image(image)
        if picture.max() == 0:
            return []
        box = np.array([0, 0, picture.shape[1], picture.shape[0]], np.float32)
        beside = Detection(box + 500, TEMPLATE.astype(np.float32) + 500, 0.99)
        return [beside, Detection(box, TEMPLATE.astype(np.float32), 0.9)]


def picture(colour: tuple[int, int, int], side: int = 112) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


PAIRS = (
    "2\t2\nAda\t1\t2\nBob\t1\t2\nAda\t1\tBob\t2\nBob\t1\tCy\t1\nCy\t1\t2\nAda\t1\t2\nCy\t1\tAda\t2\nBob\t2\tAda\t1\n"
)


@pytest.fixture
def lfw(tmp_path: Path) -> Path:
    (tmp_path / "pairs.txt").write_text(PAIRS)
    points = [f"{p}_{a}" for p in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth") for a in "xy"]
    with (
        (tmp_path / "landmarks.csv").open("w", newline="") as file,
        zipfile.ZipFile(tmp_path / "photographs.zip", "w") as archive,
    ):
        writer = csv.writer(file)
        writer.writerow(["file", *points])
        for person, colour in COLOURS.items():
            for number in (1, 2):
                name = f"{person}/{person}_{number:04d}.png"
                archive.writestr(name, picture(colour))
                writer.writerow([name, *TEMPLATE.ravel()])
    return tmp_path


@pytest.mark.parametrize("mode", ["aligned", "whole"])
def test_lfw(lfw: Path, mode: str) -> None:
    outcome = evaluate_lfw(lfw, ByColour(), mode, Whole())  # type: ignore[arg-type]
    figures = outcome.figures()
    assert figures["accuracy"] == 1.0
    assert figures["tar"] == {"1e-2": 1.0, "1e-3": 1.0}
    assert (figures["pairs"], figures["undetected"]) == (8, 0)
    np.testing.assert_allclose(outcome.scores[outcome.pairs.same], 1, atol=1e-4)


def test_lfw_a_face_that_is_not_found_counts(lfw: Path) -> None:
    with zipfile.ZipFile(lfw / "photographs.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["Ada/Ada_0002.png"] = picture((0, 0, 0))
    with zipfile.ZipFile(lfw / "photographs.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    outcome = evaluate_lfw(lfw, ByColour(), "whole", Whole())
    assert outcome.undetected == ("Ada/Ada_0002",)
    assert len(outcome.scores) == 8
    assert outcome.scores.tolist().count(0.0) == 3
    assert outcome.figures()["tar"]["1e-2"] == 0.5


def test_lfw_the_second_face_is_masked(lfw: Path) -> None:
    seen: list[np.ndarray] = []

    class Watching(ByColour):
        def embed(self, crops: np.ndarray) -> np.ndarray:
            seen.extend(crops)
            return super().embed(crops)

    plain = evaluate_lfw(lfw, ByColour())
    masked = evaluate_lfw(lfw, Watching(), masked=True)
    crop = np.empty((112, 112, 3), np.uint8)
    crop[:] = COLOURS["Bob"]
    wanted = draw_mask(crop, mask_kind("Bob_0002.png"))
    assert any((face == wanted).all() for face in seen)
    # Two roles: five photographs stand first, all six stand second or are left as they are.
    assert len(seen) == len(set(plain.pairs.first)) + len(set(plain.pairs.second))
    assert (masked.scores != plain.scores).all()


def test_lfw_errors(lfw: Path) -> None:
    with pytest.raises(ConfigError, match="needs a detector"):
        evaluate_lfw(lfw, ByColour(), "whole")
    lines = (lfw / "landmarks.csv").read_text().splitlines()
    (lfw / "landmarks.csv").write_text("\n".join(lines[:2]))
    with pytest.raises(DataError, match="has no line for"):
        evaluate_lfw(lfw, ByColour())


def test_lfw_sheet(lfw: Path) -> None:
    outcome = evaluate_lfw(lfw, ByColour())
    false_matches, false_non_matches = worst_pairs(outcome)
    assert not outcome.pairs.same[false_matches].any()
    assert outcome.pairs.same[false_non_matches].all()
    assert (np.diff(outcome.scores[false_matches]) <= 0).all()
    save_lfw_sheet(lfw / "sheet.png", lfw, outcome, masked=True)
    assert load_image(lfw / "sheet.png").shape == (2 * 130, 4 * 234, 3)


def test_batches() -> None:
    embedder = ByColour()
    crop = np.full((112, 112, 3), 200, np.uint8)
    crops = [(str(k), None if k == 5 else crop) for k in range(70)]
    embedded = embed_crops(embedder, crops)
    assert embedder.batches == [64, 5]
    assert len(embedded) == 70
    assert embedded["5"] is None
    assert embed_crops(embedder, []) == {}


@pytest.fixture
def cfp(tmp_path: Path) -> Path:
    """Two people; of one profile no face is found."""
    for person, colour in (("001", COLOURS["Ada"]), ("002", COLOURS["Bob"])):
        for pose in ("frontal", "profile"):
            folder = tmp_path / "Data" / "Images" / person / pose
            folder.mkdir(parents=True)
            for k in (1, 2):
                (folder / f"{k:02d}.jpg").write_bytes(
                    picture((0, 0, 0) if (person, pose, k) == ("002", "profile", 2) else colour)
                )
    protocol = tmp_path / "Protocol"
    protocol.mkdir()
    for kind, pose in (("F", "frontal"), ("P", "profile")):
        files = [f"../Data/Images/{p}/{pose}/{k:02d}.jpg" for p in ("001", "002") for k in (1, 2)]
        (protocol / f"Pair_list_{kind}.txt").write_text("\n".join(f"{k} {f}" for k, f in enumerate(files, start=1)))
    for name in ("FF", "FP"):
        for fold in ("01", "02"):
            folder = protocol / "Split" / name / fold
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text("1,2\n3,4\n")
            (folder / "diff.txt").write_text("1,3\n2,3\n")
    return tmp_path


def test_cfp(cfp: Path) -> None:
    outcomes = evaluate_cfp(cfp, ByColour(), Whole())
    assert {person_of(name) for name in outcomes["FP"].pairs.photographs()} == {"001", "002"}
    assert outcomes["FF"].figures()["accuracy"] == 1.0
    assert outcomes["FF"].undetected == ()
    assert [name[-14:] for name in outcomes["FP"].undetected] == ["profile/02.jpg"]
    assert outcomes["FP"].scores[1] == 0.0
    assert outcomes["FP"].figures()["undetected"] == 1

    save_photograph_sheet(cfp / "sheet.png", cfp, outcomes)
    sheet = load_image(cfp / "sheet.png")
    # Four pairs a line: each protocol has four different and four same pairs; the first shows two frontal photographs.
    lines, columns = sheet.shape[0] // (112 + 18), sheet.shape[1] // (2 * 112 + 10)
    assert (lines, columns) == (4, 4)
    worst = worst_pairs(outcomes["FF"])[0][0]
    colour = load_image(cfp / outcomes["FF"].pairs.first[worst])[56, 56].astype(int)
    assert np.abs(sheet[56, 56].astype(int) - colour).max() < 12


def test_bin(tmp_path: Path) -> None:
    faces = [picture(COLOURS[name]) for name in ("Ada", "Ada", "Ada", "Bob") * 10]
    (tmp_path / "x.bin").write_bytes(pickle.dumps((faces, [True, False] * 10)))
    figures = evaluate_bin(tmp_path / "x.bin", ByColour()).figures()
    assert (figures["accuracy"], figures["pairs"]) == (1.0, 20)
    (tmp_path / "y.bin").write_bytes(pickle.dumps(([picture((9, 9, 9), 96)] * 4, [True, False])))
    with pytest.raises(DataError, match="96x96"):
        evaluate_bin(tmp_path / "y.bin", ByColour())


def test_list_of_pairs(tmp_path: Path) -> None:
    for person, colour in COLOURS.items():
        (tmp_path / f"{person}.png").write_bytes(picture(colour))
    (tmp_path / "dark.png").write_bytes(picture((0, 0, 0)))
    rows = ["Ada.png 1", "Ada.png 1", "Ada.png 0", "Bob.png 0", "Cy.png 1", "dark.png 1", "Bob.png 0", "Cy.png 0"]
    (tmp_path / "pairs.txt").write_text("\n".join(rows))
    outcome = evaluate_list(read_pair_list(tmp_path / "pairs.txt"), tmp_path, ByColour(), Whole())
    assert outcome.undetected == ("dark.png",)
    assert outcome.scores[2] == 0.0
    assert outcome.scores[0] == pytest.approx(1, abs=1e-4)


@pytest.fixture
def ijb(tmp_path: Path) -> Path:
    """Four templates of a face each, of which one cannot be aligned."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "loose_crop").mkdir()
    faces, points = [], []
    for number, person in enumerate(("Ada", "Ada", "Bob", "Bob")):
        (tmp_path / "loose_crop" / f"{number}.png").write_bytes(picture(COLOURS[person]))
        faces.append(f"{number}.png {number} {number}")
        points.append(f"{number}.png {' '.join(str(value) for value in TEMPLATE.ravel())} 0.9")
    points[1] = "1.png " + "5 " * 10 + "0.9"  # five points in one spot: cannot be embedded
    (tmp_path / "meta" / "x_face_tid_mid.txt").write_text("\n".join(faces))
    (tmp_path / "meta" / "x_name_5pts_score.txt").write_text("\n".join(points))
    (tmp_path / "meta" / "x_template_pair_label.txt").write_text("0 1 1\n2 3 1\n" + "0 2 0\n" * 10)
    return tmp_path


def test_ijb(ijb: Path) -> None:
    figures = evaluate_ijb(ijb, ByColour()).figures()
    assert figures == {"tar": {"1e-1": 1.0}, "eer": 0.0, "templates": 4, "pairs": 12}


# The commands


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Answer:
    """What `facekd evaluate …` answers scripts, with models that know colours."""
    for commands in (pairs_commands, crops_commands):
        monkeypatch.setattr(commands, "load_embedder", lambda *_: ByColour())
    monkeypatch.setattr(pairs_commands, "open_detector", lambda *_: Whole())

    def run(*arguments: str | Path) -> dict[str, Any]:
        assert cli.run(["evaluate", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_the_command_lfw_draws_masks_a_sheet_and_a_curve(lfw: Path, answer: Answer) -> None:
    plain = answer("lfw", lfw)
    masked = answer("lfw", lfw, "--masked", "--sheet", lfw / "sheet.png", "--plot", lfw / "det.png")
    assert (plain["masked"], masked["masked"], masked["mode"]) == (False, True, "aligned")
    assert plain["threshold"] != masked["threshold"]  # other scores
    assert set(masked["interval"]) == {"accuracy", "1e-2", "1e-3"}
    assert load_image(lfw / "sheet.png").shape == (2 * 130, 4 * 234, 3)
    assert load_image(lfw / "det.png").size
    whole = answer("lfw", lfw, "--mode", "whole", "--part", "1")
    assert (whole["mode"], whole["pairs"]) == ("whole", 4)


def test_the_command_lfw_tells_groups(lfw: Path, answer: Answer, capsys: Any) -> None:
    (lfw / "groups.csv").write_text(
        "file,gender,hat\nAda_0001.jpg,f,x\nAda_0002,f,x\nCy/Cy_0001.png,f,x\nBob/Bob_0001,m,x\n"
    )
    arguments = ("lfw", lfw, "--groups", lfw / "groups.csv", "--group", "gender")
    figures = answer(*arguments)
    for rate in ("1e-2", "1e-3"):
        found = figures["groups"][rate]["f"]
        assert (found["pairs"], found["crops"], found["fmr"]) == (2, 3, found["false_matches"] / 2)
        assert figures["groups"][rate]["m"]["fmr"] is None
        assert figures["everybody"][rate]["pairs"] == 12  # six photographs, two of each person
        assert -1 < figures["thresholds"][rate] < 0  # as far apart as colours are
    assert cli.run(["evaluate", *map(str, arguments)]) == 0
    shown = capsys.readouterr().out
    assert "no pair" in shown
    assert "(everybody)" in shown
    for wrong, said in (
        (["--groups", lfw / "groups.csv"], "name one with --group"),
        (["--group", "gender"], "give both"),
        (["--groups", lfw / "groups.csv", "--group", "hat", "--masked"], "leave --masked out"),
    ):
        assert cli.run(["evaluate", "lfw", str(lfw), *map(str, wrong)]) == 2
        assert said in capsys.readouterr().err


def test_the_command_cfp_has_intervals_over_people(cfp: Path, answer: Answer, capsys: Any) -> None:
    figures = answer("cfp", cfp, "--sheet", cfp / "sheet.png", "--plot", cfp / "det.png")
    assert (figures["FF"]["accuracy"], figures["FF"]["undetected"], figures["undetected"]) == (1.0, 0, 1)
    for protocol in ("FF", "FP"):
        assert set(figures[protocol]["interval"]) == {"accuracy", "1e-2", "1e-3"}
        low, high = figures[protocol]["interval"]["accuracy"]
        assert 0 <= low <= figures[protocol]["accuracy"] <= high <= 1
    assert load_image(cfp / "sheet.png").size
    assert load_image(cfp / "det.png").size
    assert cli.run(["evaluate", "cfp", str(cfp)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"FF +│ 100\.00 %", shown)
    assert "95 % over people, FP: accuracy" in " ".join(shown.split())


def test_the_command_bin(tmp_path: Path, answer: Answer) -> None:
    faces = [picture(COLOURS[name]) for name in ("Ada", "Ada", "Ada", "Bob") * 10]
    (tmp_path / "x.bin").write_bytes(pickle.dumps((faces, [True, False] * 10)))
    figures = answer("bin", tmp_path / "x.bin", "--sheet", tmp_path / "sheet.png", "--plot", tmp_path / "det.png")
    assert (figures["accuracy"], figures["pairs"], figures["undetected"]) == (1.0, 20, 0)
    assert "interval" not in figures  # nothing says who is in such a file
    sheet = load_image(tmp_path / "sheet.png")  # 10 different pairs, then 10 of one person
    assert sheet.shape == (5 * 130, 4 * 234, 3)
    assert [sheet[56, x].argmax() for x in (56, 168)] == [0, 1]  # red Ada beside green Bob
    assert load_image(tmp_path / "det.png").size


def test_the_command_pairs(tmp_path: Path, answer: Answer) -> None:
    for person, colour in COLOURS.items():
        for number in (1, 2):
            (tmp_path / f"{person}_{number}.png").write_bytes(picture(colour))
    rows = ["Ada_1.png 1", "Ada_2.png 1", "Ada_1.png 0", "Bob_1.png 0", "Cy_1.png 2", "Cy_2.png 2"]
    rows += ["Bob_2.png 0", "Cy_1.png 0"]
    (tmp_path / "pairs.txt").write_text("\n".join(rows))
    arguments = ("pairs", tmp_path / "pairs.txt", tmp_path)
    figures = answer(*arguments, "--sheet", tmp_path / "sheet.png", "--plot", tmp_path / "det.png")
    assert (figures["accuracy"], figures["pairs"]) == (1.0, 4)
    assert set(figures["interval"]) == {"accuracy", "1e-2", "1e-3"}
    assert load_image(tmp_path / "sheet.png").shape == (130, 4 * 234, 3)
    assert load_image(tmp_path / "det.png").size
    # Aligned crops are not looked for; group labels by person.
    (tmp_path / "people.csv").write_text("person,group\nAda,x\nBob,x\nCy,y\n")
    aligned = answer(*arguments, "--aligned", "--groups", tmp_path / "people.csv")
    assert aligned["accuracy"] == 1.0
    assert {name: group["pairs"] for name, group in aligned["groups"]["1e-2"].items()} == {"x": 4, "y": 0}
    for name in ("Ada_1", "Bob_1"):
        (tmp_path / f"{name}.png").rename(tmp_path / f"{name[:-2]}.png")
    (tmp_path / "pairs.txt").write_text("\n".join(rows).replace("Ada_1", "Ada").replace("Bob_1", "Bob"))
    assert "interval" not in answer(*arguments)


def test_the_command_ijb(ijb: Path, answer: Answer, capsys: Any) -> None:
    figures = answer("ijb", ijb, "--plot", ijb / "det.png")
    assert (figures["tar"], figures["eer"], figures["pairs"]) == ({"1e-1": 1.0}, 0.0, 12)
    assert load_image(ijb / "det.png").size
    assert cli.run(["evaluate", "ijb", str(ijb)]) == 0
    assert "12 comparisons of 4 templates" in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Four people of three crops, and two crops of nobody known."""
    rng = np.random.default_rng(0)
    with (tmp_path / "faces.csv").open("w", newline="") as file, zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        writer = csv.writer(file)
        writer.writerow(["shard", "file", "identity", "split", "group"])
        for number in range(15):
            name = "" if number >= 12 else f"p{number // 3}"
            colour = tuple(int(c) for c in rng.integers(0, 256, 3))
            archive.writestr(f"{number}.png", picture(colour))  # type: ignore[arg-type]
            writer.writerow(
                ["s.zip", f"{number}.png", name, "train" if number == 14 else "val", "x" if number % 2 else ""]
            )
    return tmp_path


def test_crops(crops: Path) -> None:
    table = read_crop_table(crops, "faces.csv", "val")
    assert len(table.rows) == 14
    computed = crop_embeddings(table, ByColour())
    figures = evaluate_crops(table, computed, rates=(0.1,), replicates=20, group_column="group")
    assert figures["identities"] == 4
    assert figures["pairs"] == {"mated": 12, "non_mated": 54}
    low, high = figures["tar_interval"]["1e-1"]
    assert 0 <= low <= high <= 1
    assert figures["groups"]["1e-1"]["x"]["crops"] == 7
    # Rows of a file are those of the whole table.
    np.save(crops / "e.npy", np.concatenate([computed, computed[:1]]).astype(np.float16))
    stored = crop_embeddings(table, None, crops / "e.npy")
    np.testing.assert_allclose(stored, computed, atol=1e-3)


def test_the_command_crops_saves_a_curve_a_sheet_and_groups(crops: Path, answer: Answer, capsys: Any) -> None:
    arguments = ["crops", crops, "--split", "val", "--replicates", "0", "--group", "group"]
    figures = answer(*arguments, "--sheet", crops / "sheet.png", "--plot", crops / "det.png")
    assert load_image(crops / "det.png").size
    table = read_crop_table(crops, "faces.csv", "val")
    matrix = crop_embeddings(table, ByColour())
    # Six pairs of two people, and one pair of each of the four: ten cells, four a line.
    sheet = load_image(crops / "sheet.png")
    assert sheet.shape == (3 * 130, 4 * 234, 3)
    scores = matrix @ matrix.T
    scores[[[row["identity"] == other["identity"] for other in table.rows] for row in table.rows]] = -2
    scores[12:] = scores[:, 12:] = -2  # nobody knows them
    colours = [
        load_image(crops_of.read(row["file"]))[0, 0]
        for row in table.rows
        for crops_of in [Photographs(crops / "s.zip")]
    ]
    shown = [sheet[56, x] for x in (56, 168)]
    worst = [colours[k] for k in sorted(np.unravel_index(scores.argmax(), scores.shape))]
    assert np.abs(np.array(shown).astype(int) - np.array(worst)).max() <= 1
    assert figures["groups"]["1e-2"]["x"]["crops"] == 7
    assert cli.run(["evaluate", *map(str, arguments)]) == 0
    shown_text = capsys.readouterr().out
    assert "false-match rates of different people of one group" in shown_text
    assert "FMR where FAR is 1e-3" in shown_text


def test_captions_stay_in_their_cells() -> None:
    black = np.zeros((112, 112, 3), np.uint8)
    sheet = error_sheet(
        [(black, black, "different, 0.812: Someone with a very long name / Somebody else"), (black, black, "")]
    )
    assert (sheet[112:, :230] < 128).any()
    assert (sheet[112:, 232:] == 255).all()


def test_crops_errors(crops: Path) -> None:
    table = read_crop_table(crops, "faces.csv", "val")
    with pytest.raises(DataError, match="it has train, val"):
        read_crop_table(crops, "faces.csv", "test")
    for content, message in (("file,split\n", "lists no crop"), ("file,who\na,b\n", "lacks the columns split; it has")):
        (crops / "own.csv").write_text(content)
        with pytest.raises(DataError, match=message):
            read_crop_table(crops, "own.csv", "val")
    with pytest.raises(ConfigError, match="no column 'hat'"):
        evaluate_crops(table, crop_embeddings(table, ByColour()), rates=(0.1,), replicates=0, group_column="hat")
    with pytest.raises(ConfigError, match="embedder"):
        crop_embeddings(table, None)
    for rows in (3, 14, 16):  # of 15 lines, the last of another split; 16 are some other folder's
        np.save(crops / "other.npy", np.ones((rows, 4), np.float32))
        with pytest.raises(DataError, match="one row for each line of the table, 15"):
            crop_embeddings(table, None, crops / "other.npy")
    only = read_crop_table(crops, "faces.csv", "train")
    embedded = crop_embeddings(only, ByColour())
    with pytest.raises(DataError, match="fewer than two"):
        evaluate_crops(only, embedded)
    single = CropTable(table.root, tuple(table.rows[k] for k in (0, 3)), table.numbers[[0, 3]], table.lines)
    with pytest.raises(DataError, match="only one crop of each of its 2 people"):
        evaluate_crops(single, np.eye(2, dtype=np.float32))
    with pytest.raises(DataError, match="normalise"):
        evaluate_crops(table, np.full((14, 3), 2, np.float32))


def test_mask(crops: Path) -> None:
    (crops / "mask.csv").write_text("shard,file,label,split\ns.zip,0.png,none,val\ns.zip,1.png,mask,val\n")

    class Always:
        def predict(self, pictures: np.ndarray) -> list[MaskResult]:
            return [MaskResult("mask", 0.9)] * len(pictures)

    figures = evaluate_mask(crops, "val", Always())
    assert figures["accuracy"] == 0.5
    assert figures["confusion"] == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_calibrate(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with (tmp_path / "faces.csv").open("w", newline="") as file, zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        writer = csv.writer(file)
        writer.writerow(["shard", "file", "identity", "split"])
        for number in range(60):
            centre = np.random.default_rng(number // 4).integers(0, 256, 3)
            colour = np.clip(centre + rng.integers(-20, 20, 3), 0, 255)
            archive.writestr(f"{number}.png", picture(tuple(int(c) for c in colour)))  # type: ignore[arg-type]
            writer.writerow(["s.zip", f"{number}.png", f"p{number // 4}", "val"])
    curves = calibrate_crops(tmp_path, "val", ByColour(), replicates=20)
    assert list(curves) == ["unmasked", "masked"]
    assert curves["unmasked"].people == 15
    assert curves["unmasked"].pairs == (60 * 59 - 60 * 3) // 2
    assert curves["masked"].pairs == 60 * 59 - 60 * 3
    assert [point.fmr for point in curves["unmasked"].points] == [1e-1, 3e-2, 1e-2]
