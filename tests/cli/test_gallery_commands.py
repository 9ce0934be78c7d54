"""`enroll`, `identify`, `verify`, `people` and `gallery` with a pipeline that reads a face off a picture's colour."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekd import cli
from facekd.errors import GalleryError
from facekd.gallery import Gallery
from facekd.gallery.calibration import Calibration, Curve, Point
from facekd.gallery.records import NewTemplate
from facekd.images import load_image
from facekd.video import VideoFile

CONTRACT = "0123456789abcdef"


@dataclasses.dataclass(frozen=True)
class _Face:
    embedding: np.ndarray
    masked: bool = False
    sure: float = 0.95
    box: np.ndarray = dataclasses.field(default_factory=lambda: np.float32([4, 4, 60, 60]))
    landmarks: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((5, 2), np.float32))
    score: float = 0.9

    @property
    def mask(self) -> Any:
        return types.SimpleNamespace(status="mask" if self.masked else "none", score=self.sure)

    quality = types.SimpleNamespace(score=0.75, reasons=())
    crop = np.zeros((112, 112, 3), np.uint8)

    def to_dict(self) -> dict[str, Any]:
        return {
            "box": self.box.tolist(),
            "mask": {"status": self.mask.status, "score": self.sure},
            "quality": {"score": 0.75, "reasons": []},
        }


class _Pipeline:
    """A grey picture shows the person of that grey value (in tens): 0 nobody, 250 two, 240 with a mask, 230 perhaps."""

    def __init__(self, embedder: Any = None) -> None:
        self.embedder = embedder

    def analyze(self, image: Any) -> list[_Face]:
        level = round(float(load_image(image).mean()) / 10)
        if level == 0:
            return []
        if level == 25:
            return [_Face(_unit(1)), _Face(_unit(2), box=np.float32([70, 4, 126, 60]))]
        return [_Face(_unit(level), masked=level == 24, sure=0.4 if level == 23 else 0.95)]


def _unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(512)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture(autouse=True)
def _no_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = types.ModuleType("facekd.pipeline")
    module.FacePipeline = _Pipeline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "facekd.pipeline", module)
    record = types.SimpleNamespace(contract=CONTRACT, task="embedder", calibration=None)
    monkeypatch.setattr("facekd.zoo.find_model", lambda name: record)
    embedder = types.SimpleNamespace(dimension=512, contract=CONTRACT)
    monkeypatch.setattr("facekd.recognition.embedder.Embedder", lambda model: embedder)
    monkeypatch.setattr("facekd.zoo.load_manifest", lambda path=None: types.SimpleNamespace(models={"only": record}))
    monkeypatch.setattr("facekd.gallery.gallery.shipped_calibration", lambda contract: _calibration())
    monkeypatch.setattr("facekd.gallery.calibration.shipped_calibration", lambda contract: _calibration())
    monkeypatch.setenv("FACEKD_GALLERY", str(tmp_path / "gallery.db"))
    monkeypatch.delenv("FACEKD_GALLERY_KEY", raising=False)


def _calibration(contract: str = CONTRACT) -> Calibration:
    points = tuple(Point(fmr=10.0**-n, threshold=0.2 + 0.1 * n, fmr_upper=2 * 10.0**-n) for n in range(1, 6))
    return Calibration(contract=contract, source="made up", unmasked=Curve(points=points, people=40, pairs=10**6))


@pytest.fixture
def photo(tmp_path: Path) -> Any:
    def make(level: int, name: str | None = None) -> str:
        path = tmp_path / (name or f"{level}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 128, 3), level, np.uint8)).save(path)
        return str(path)

    return make


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object, code: int = 0) -> Any:
        got = cli.run([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert got == code, captured.err
        said = json.loads(captured.out)
        assert "exit_code" not in said or said["exit_code"] == code
        return said.get("error", said)

    return run


def test_enrols_identifies_and_forgets(photo, answer):
    enrolled = answer("enroll", "Ada", photo(10))["people"]
    assert enrolled == [
        {"person": "Ada", "enrolled": [{"path": photo(10), "id": 1, "quality": 0.75, "warnings": []}], "refused": []}
    ]
    answer("enroll", "Grace", photo(20))
    images = answer("identify", photo(10), photo(90), photo(0))["images"]
    (ada,), (stranger,), nobody = (image["faces"] for image in images)
    assert (ada["person"], ada["outcome"], ada["runner_up"]["person"]) == ("Ada", "match", "Grace")
    assert {"box", "person", "score", "threshold", "runner_up", "mask", "quality"} <= set(ada)
    assert (stranger["person"], nobody) == (None, [])
    assert answer("identify", photo(90), code=1)["images"][0]["faces"][0]["person"] is None
    assert [p["person"] for p in answer("people", "list")["people"]] == ["Ada", "Grace"]
    assert answer("people", "rename", "Ada", "Ada Lovelace")["person"] == "Ada Lovelace"
    removed = {"removed": "Ada Lovelace", "templates": 1, "fused": 0, "erased": True}
    assert answer("people", "remove", "Ada Lovelace") == removed
    assert answer("identify", photo(10), code=1)
    assert "nobody named" in answer("people", "remove", "Ada Lovelace", code=1)


def test_refusals_have_reasons_and_codes(photo, answer, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no")
    refused = answer("enroll", "Ada", photo(0), photo(250), photo(240), broken, code=5)["people"][0]["refused"]
    assert [entry["reason"] for entry in refused] == ["no-face", "several-faces", "masked", "unreadable"]
    assert answer("people", "list")["people"] == []
    assert answer("enroll", "Ada", photo(10), photo(0), code=3)["people"][0]["enrolled"]
    assert answer("enroll", "Ada", photo(10))["people"][0]["refused"][0]["reason"] == "already-enrolled"
    assert answer("enroll", "Ada", photo(250), photo(10))["people"][0]["enrolled"] == []
    assert answer("enroll", "Ada", photo(10), photo(0), code=3)["people"][0]["enrolled"] == []
    assert answer("enroll", "Ada", photo(250), code=5)["people"][0]["enrolled"] == []
    assert answer("enroll", "Second", photo(250), "--face", 2)["people"][0]["enrolled"]
    assert answer("enroll", "Masked", photo(240), "--allow-masks")["people"][0]["enrolled"]
    told = answer("enroll", "Ada again", photo(10))["people"][0]["enrolled"][0]["warnings"]
    assert [(warning["code"], warning["other"]) for warning in told] == [("belongs-to-other", "Ada")]


def test_enrols_a_folder_of_peoples_folders(photo, answer, tmp_path):
    photo(10, "people/Ada/a.png")
    photo(20, "people/Grace/b.png")
    photo(0, "people/Nobody/c.png")
    people = answer("enroll", "--folder", tmp_path / "people", code=5)["people"]
    assert [(person["person"], len(person["enrolled"])) for person in people] == [
        ("Ada", 1),
        ("Grace", 1),
        ("Nobody", 0),
    ]


def test_a_persons_folder_without_a_picture_is_reported(photo, answer, tmp_path):
    photo(10, "people/Ada/a.png")
    (tmp_path / "people" / "Bob").mkdir()
    ada, bob = answer("enroll", "--folder", tmp_path / "people", code=5)["people"]
    assert (len(ada["enrolled"]), bob["person"], bob["enrolled"]) == (1, "Bob", [])
    assert [(entry["path"], entry["reason"]) for entry in bob["refused"]] == [
        (str(tmp_path / "people" / "Bob"), "no-photograph")
    ]


def test_a_persons_folder_that_cannot_be_read_is_said(photo, answer, tmp_path, unreadable_folder):
    photo(10, "people/Ada/a.png")
    photo(20, "people/Bob/b.png")
    unreadable_folder(tmp_path / "people" / "Bob")
    assert "Bob cannot be read" in answer("enroll", "--folder", tmp_path / "people", code=3)
    answer("enroll", "Ada", photo(10))
    entries = answer("identify", tmp_path / "people", photo(10), code=3)["images"]
    assert [("error" in entry, "faces" in entry) for entry in entries] == [(True, False), (False, True)]  # both said
    unreadable_folder(tmp_path / "people")
    assert "people cannot be read" in answer("enroll", "--folder", tmp_path / "people", code=3)


def test_a_folder_can_be_enrolled_every_night(photo, answer, tmp_path):
    for place in ("people/Ada/a.png", "people/Grace/b.png"):
        photo(10 if "Ada" in place else 20, place)
    photo(250, "people/Grace/several.png")
    for enrolled in (1, 0):
        people = answer("enroll", "--folder", tmp_path / "people")["people"]
        assert [len(person["enrolled"]) for person in people] == [enrolled, enrolled]


@pytest.mark.parametrize("name", ["here.bin", "absent.jpg", "ABSENT.PNG"])
def test_a_photograph_in_the_place_of_the_name_is_nobody(photo, answer, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("here.bin").write_bytes(b"x")
    Path("Ada").mkdir()
    assert "the person's name comes first" in answer("enroll", name, photo(10), code=2)
    assert answer("enroll", "Ada", photo(10, "Ada/a.png"))["people"][0]["enrolled"]  # a folder may be called so


def test_a_folder_whose_name_is_none_stops_before_anybody_is_enrolled(photo, answer, tmp_path):
    photo(10, "people/Ada/a.png")
    photo(20, "people/Gra\nce/b.png")
    assert "control characters" in answer("enroll", "--folder", tmp_path / "people", code=2)
    assert "enrol somebody first" in answer("people", "list", code=4)


def test_who_is_enrolled_when_a_later_one_fails_is_told(photo, answer, tmp_path, monkeypatch):
    from facekd.gallery.gallery import Gallery

    enrol = Gallery.enrol

    def locked_at_grace(self, person, *arguments, **options):
        if person == "Grace":
            raise GalleryError("the gallery is locked")
        return enrol(self, person, *arguments, **options)

    monkeypatch.setattr(Gallery, "enrol", locked_at_grace)
    photo(10, "people/Ada/a.png")
    photo(20, "people/Grace/b.png")
    people = answer("enroll", "--folder", tmp_path / "people", code=4)["people"]
    assert [person["person"] for person in people] == ["Ada"]


@pytest.mark.parametrize(
    "arguments",
    [["enroll"], ["enroll", "Ada"], ["verify", "a.png"], ["enroll", "Ada", "--folder", "people"],
     ["enroll", "Ada", "x.png", "--face", "second"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_use(answer, arguments):
    answer(*arguments, code=2)


@pytest.mark.parametrize(
    "options", [["--fpir", "7"], ["--fpir", "0"], ["--fpir", "nan"], ["--threshold", "1.5"]], ids=" ".join
)
def test_a_rate_that_is_none_is_said_before_anybody_looks(photo, answer, options):
    answer("enroll", "Ada", photo(10))
    answer("identify", photo(0), *options, code=2)
    fmr = [option.replace("fpir", "fmr") for option in options]
    answer("verify", photo(0), photo(0), *fmr, code=2)
    answer("verify", "--person", "Ada", photo(0), *fmr, code=2)


def test_a_gallery_named_beside_two_photographs_is_a_mistake(photo, answer):
    for option in ("--gallery", "--key-file"):
        assert "--person" in answer("verify", photo(10), photo(10), option, "nowhere", code=2)


def test_verifies_pairs_and_claims(photo, answer):
    same = answer("verify", photo(10), photo(10, "copy.png"))
    assert set(same) == {"same", "outcome", "reason", "score", "threshold", "fmr", "fmr_upper", "extrapolated"}
    assert same["same"]
    assert same["threshold"] == pytest.approx(0.6)
    assert not answer("verify", photo(10), photo(20), code=1)["same"]
    answer("verify", photo(10), photo(0), code=3)
    answer("verify", photo(10), photo(250), code=3)
    answer("verify", photo(20), photo(250), "--face", "2", code=2)  # the first has no second face
    answer("enroll", "Ada", photo(10))
    assert answer("verify", "--person", "Ada", photo(10))["same"]
    assert not answer("verify", "--person", "Ada", photo(20), code=1)["same"]
    answer("verify", "--person", "Bob", photo(20), code=1)


def test_verification_says_try_again_where_the_mask_is_not_sure(photo, answer, capsys):
    unsure = photo(230)
    answer("enroll", "Ada", unsure, "--allow-masks")
    for claim in ((unsure, photo(230, "copy.png")), ("--person", "Ada", unsure)):
        found = answer("verify", *claim, code=1)
        assert (found["same"], found["outcome"], found["reason"]) == (False, "try-again", "mask-unsure")
        assert found["score"] == pytest.approx(1.0)
    assert cli.run(["verify", unsure, unsure]) == 1
    assert "try again (mask-unsure)" in capsys.readouterr().out


def test_a_threshold_or_calibration_can_be_named(photo, answer, tmp_path):
    answer("enroll", "Ada", photo(10))
    face = answer("identify", photo(90), "--threshold", "-1")["images"][0]["faces"][0]
    assert (face["person"], face["fpir"]) == ("Ada", 1.0)
    _calibration().save(tmp_path / "calibration.json")
    strict = answer("identify", photo(10), "--fpir", "0.00001", "--calibration", tmp_path / "calibration.json")
    assert strict["images"][0]["faces"][0]["threshold"] == pytest.approx(0.7)
    _calibration("fedcba9876543210").save(tmp_path / "other.json")
    answer("identify", photo(10), "--calibration", tmp_path / "other.json", code=2)


def test_a_video_gives_one_object_a_line(photo, answer, tmp_path, capsys):
    answer("enroll", "Ada", photo(10))
    with VideoFile(tmp_path / "clip.mp4", 10.0) as file:
        for level in (10, 0, 90):
            file.write(np.full((64, 128, 3), level, np.uint8))
    assert cli.run(["identify", str(tmp_path / "clip.mp4"), "--json", "--draw", str(tmp_path / "marked")]) == 0
    frames = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[face["person"] for face in frame["faces"]] for frame in frames] == [["Ada"], [], [None]]
    assert (tmp_path / "marked" / "clip.mp4").is_file()


def test_between_key_frames_a_decision_stays_with_its_face(photo, answer, tmp_path, capsys, monkeypatch):
    answer("enroll", "Ada", photo(10))
    looks = []

    def analyze(pipeline, image):
        looks.append(image)
        return [_Face(_unit(1), box=np.float32([30, 10, 80, 60]))]

    monkeypatch.setattr(_Pipeline, "analyze", analyze)
    tones = np.random.default_rng(0).integers(0, 2, (8, 16, 3)) * 120 + 60
    scenery = np.kron(tones, np.ones((8, 8, 1))).astype(np.uint8)
    with VideoFile(tmp_path / "clip.mp4", 10.0) as file:
        for shift in range(6):
            file.write(np.roll(scenery, shift, axis=1))
    assert cli.run(["identify", str(tmp_path / "clip.mp4"), "--every", "4", "--json"]) == 0
    frames = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [frame["looked"] for frame in frames] == [True, False, False, False, True, False]
    assert len(looks) == 2
    faces = [face for frame in frames for face in frame["faces"]]
    assert [(face["id"], face["person"], face["detected"]) for face in faces] == [
        (1, "Ada", frame["looked"]) for frame in frames
    ]
    assert [face["score"] for face in faces[:4]] == [faces[0]["score"]] * 4
    # The decision stays, the box moves on.
    assert [face["box"][0] for face in faces[:4]] == pytest.approx([30, 31, 32, 33], abs=0.5)
    assert all("landmarks" not in face for face in faces)


def test_marks_pictures_and_prints_a_table(photo, tmp_path, capsys):
    assert cli.run(["enroll", "Ada", photo(10)]) == 0
    assert cli.run(["identify", photo(10), photo(90), "--draw", str(tmp_path / "marked")]) == 0
    printed = capsys.readouterr().out
    assert "Ada" in printed
    assert "nobody" in printed
    assert (np.array(Image.open(tmp_path / "marked" / "10.png")) != 10).any()
    assert cli.run(["people", "list"]) == 0
    assert cli.run(["gallery", "audit"]) == 0
    assert "enrol" in capsys.readouterr().out


def test_exports_and_imports(photo, answer, tmp_path):
    answer("enroll", "Ada", photo(10))
    assert answer("people", "export", tmp_path / "all.zip")["templates"] == 1
    other = tmp_path / "other.db"
    assert answer("people", "import", tmp_path / "all.zip", "--gallery", other)["added"] == ["Ada"]
    answer("people", "import", tmp_path / "all.zip", "--gallery", other, code=2)
    assert answer("people", "import", tmp_path / "all.zip", "--gallery", other, "--merge")["present"] == 1
    answer("people", "import", tmp_path / "absent.zip", code=3)


def test_backs_up_checks_and_restores(photo, answer, tmp_path):
    answer("enroll", "Ada", photo(10))
    answer("gallery", "backup", tmp_path / "backup.db")
    answer("people", "remove", "Ada")
    restored = {"path": str(tmp_path / "gallery.db"), "people": 1, "templates": 1, "encrypted": False, "damaged": None}
    assert answer("gallery", "restore", tmp_path / "backup.db") == restored
    health = answer("gallery", "check")
    assert (health["healthy"], health["people"], health["encrypted"]) == (True, 1, False)
    head = answer("gallery", "audit")["head"]
    assert answer("gallery", "check", "--seen", head)["healthy"]
    assert not answer("gallery", "check", "--seen", "0" * 63 + "1", code=4)["healthy"]
    (tmp_path / "gallery.db").write_bytes(b"nothing" * 100)
    assert "restore" in answer("gallery", "check", code=4)


def test_what_a_restore_sets_aside_is_named(photo, answer, tmp_path):
    answer("enroll", "Ada", photo(10))
    answer("gallery", "backup", tmp_path / "backup.db")
    gallery = tmp_path / "gallery.db"
    gallery.write_bytes(gallery.read_bytes()[:2_000])
    assert "restore" in answer("gallery", "check", code=4)
    damaged = answer("gallery", "restore", tmp_path / "backup.db")["damaged"]
    assert Path(damaged).stat().st_size == 2_000
    assert answer("gallery", "check")["healthy"]


def test_encrypts_and_rotates(photo, answer, tmp_path, monkeypatch):
    answer("enroll", "Ada", photo(10))
    first, second = tmp_path / "first.key", tmp_path / "second.key"
    assert answer("gallery", "rotate-key", "--new-key-file", first)["erased"]
    answer("identify", photo(10), code=4)
    assert answer("identify", photo(10), "--key-file", first)["images"][0]["faces"][0]["person"] == "Ada"
    answer("gallery", "rotate-key", "--key-file", first, "--new-key-file", second)
    answer("identify", photo(10), "--key-file", first, code=4)
    monkeypatch.setenv("FACEKD_GALLERY_KEY", second.read_text().strip())
    assert answer("gallery", "check")["encrypted"]


def test_audits_templates(photo, answer):
    answer("enroll", "Ada", photo(10))
    assert answer("gallery", "audit-templates")["findings"] == []
    answer("enroll", "Countess", photo(10))
    findings = answer("gallery", "audit-templates", code=1)["findings"]
    assert {(finding["person"], finding["kind"]) for finding in findings} == {
        ("Ada", "like-other"),
        ("Countess", "like-other"),
    }
    answer("people", "remove", "Countess", "--template", findings[1]["template"])
    assert answer("gallery", "audit-templates")["findings"] == []


def test_a_gallery_that_is_not_there_is_said(photo, answer):
    assert "enrol somebody first" in answer("identify", photo(10), code=4)
    assert "enrol somebody first" in answer("people", "list", code=4)


def test_what_could_not_be_erased_is_told(photo, answer, tmp_path, monkeypatch, capsys):
    answer("enroll", "Ada", photo(10))
    answer("gallery", "rotate-key", "--new-key-file", tmp_path / "old.key")
    monkeypatch.setattr("facekd.gallery.connection.Connection.erase_leftovers", lambda self, *, vacuum: False)
    key = ("--key-file", tmp_path / "old.key")
    assert not answer("gallery", "rotate-key", *key, "--new-key-file", tmp_path / "new.key")["erased"]
    assert cli.run(["gallery", "check", "--key-file", str(tmp_path / "new.key"), "--json"]) == 0
    captured = capsys.readouterr()
    assert "may linger" in captured.err
    health = json.loads(captured.out)
    assert (health["healthy"], health["erased"]) == (True, False)


def test_shows_templates_by_the_ids_that_removal_takes(photo, answer, tmp_path):
    enrolled = answer("enroll", "Ada", photo(10), photo(20))["people"][0]["enrolled"]
    shown = answer("people", "show", "Ada")
    assert shown["person"] == "Ada"
    assert [template["id"] for template in shown["templates"]] == [photograph["id"] for photograph in enrolled]
    assert {"created", "quality", "mask", "photographs"} < set(shown["templates"][0])
    assert answer("people", "remove", "Ada", "--template", enrolled[0]["id"])["templates"] == 1
    assert [template["id"] for template in answer("people", "show", "Ada")["templates"]] == [enrolled[1]["id"]]
    assert "nobody named" in str(answer("people", "show", "Bob", code=1))


def test_a_damaged_template_is_named_and_can_be_removed(photo, answer, tmp_path):
    answer("enroll", "Ada Lovelace", photo(10), photo(20))
    path = tmp_path / "gallery.db"
    content = bytearray(path.read_bytes())
    content[content.index(_unit(1).tobytes())] ^= 1
    path.write_bytes(content)
    message = str(answer("identify", photo(20), code=4))
    assert "facekd people remove 'Ada Lovelace' --template 1" in message
    assert answer("people", "show", "Ada Lovelace", code=4)["damaged"] == [1]
    assert answer("people", "remove", "Ada Lovelace", "--template", 1)["templates"] == 1
    assert answer("identify", photo(20))["images"][0]["faces"][0]["person"] == "Ada Lovelace"
    assert answer("gallery", "check")["healthy"]


def test_an_export_replaces_no_file(photo, answer, tmp_path):
    answer("enroll", "Ada", photo(10))
    assert "exists" in answer("people", "export", tmp_path / "gallery.db", code=2)
    assert [person["person"] for person in answer("people", "list")["people"]] == ["Ada"]


def test_a_mean_that_may_hold_what_is_removed_goes_and_is_told(photo, answer, capsys):
    answer("enroll", "Ada", photo(10))
    with Gallery.open(os.environ["FACEKD_GALLERY"], contract=CONTRACT) as gallery, gallery.store.writing():
        fused = NewTemplate(_unit(3), 0.5, "none", created="2030-01-01", photographs=2)
        gallery.store.add_templates(1, [fused], "")
    assert cli.run(["people", "remove", "Ada", "--template", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert "enrol those photographs again" in captured.err
    assert json.loads(captured.out)["fused"] == 1
