import io
import json
import zipfile

import numpy as np
import pytest

from facekd.errors import ConfigError, DataError, GalleryError
from facekd.gallery.exchange import read_export
from facekd.gallery.records import NewTemplate


@pytest.fixture
def exported(open_gallery, unit, tmp_path):
    gallery = open_gallery()
    gallery.enrol("Ada", [NewTemplate(unit(1), 0.8, "none"), unit(2)])
    gallery.enrol("Grace", [unit(3)])
    path = tmp_path / "export.zip"
    assert gallery.export(path) == 3
    return path


def _rewrite(path, table=None, array=None, drop=None):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if table is not None:
        members["gallery.json"] = json.dumps({**json.loads(members["gallery.json"]), **table}).encode()
    if array is not None:
        members["templates.npy"] = array
    members.pop(drop, None)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_an_export_holds_everything(exported, open_gallery, unit, tmp_path):
    other = open_gallery(tmp_path / "other.db")
    report = other.import_(exported)
    assert (report.added, report.merged, report.templates, report.present) == (("Ada", "Grace"), (), 3, 0)
    first = open_gallery()
    for name in ("Ada", "Grace"):
        pairs = zip(first.templates(name), other.templates(name), strict=True)
        for one, two in pairs:
            assert np.array_equal(one.embedding, two.embedding)
            assert (one.quality, one.mask, one.created) == (two.quality, two.mask, two.created)


def test_anybody_can_read_the_format(exported, unit):
    with zipfile.ZipFile(exported) as archive:
        table = json.loads(archive.read("gallery.json"))
        templates = np.load(io.BytesIO(archive.read("templates.npy")), allow_pickle=False)
    assert table["format"] == "facekd gallery 1"
    row = table["people"][1]["templates"][0]["row"]
    assert np.array_equal(templates[row], unit(3))


def test_a_name_that_is_taken_needs_merge(exported, open_gallery, unit, tmp_path):
    other = open_gallery(tmp_path / "other.db")
    other.enrol("Grace", [unit(3), unit(9)])
    with pytest.raises(ConfigError, match="Grace"):
        other.import_(exported)
    assert [person.name for person in other.people()] == ["Grace"]  # nothing of Ada either
    report = other.import_(exported, merge=True)
    assert (report.added, report.merged, report.templates, report.present) == (("Ada",), ("Grace",), 2, 1)
    assert other.import_(exported, merge=True).templates == 0


def test_another_models_export_is_refused(exported, open_gallery, tmp_path):
    other = open_gallery(tmp_path / "other.db", contract="fedcba9876543210", calibration=None)
    with pytest.raises(GalleryError, match="two models"):
        other.import_(exported)


def _told(**values):
    first, *more = [{"row": row} for row in range(3)]
    return {"people": [{"name": "Ada", "templates": [{**first, **values}, *more]}]}


def test_the_rows_that_the_next_test_alters_are_good_ones(exported, open_gallery, tmp_path):
    _rewrite(exported, _told(photographs=1000, quality=1))
    assert open_gallery(tmp_path / "other.db").import_(exported).templates == 3


def _npy(array):
    target = io.BytesIO()
    np.save(target, array, allow_pickle=array.dtype == object)
    return target.getvalue()


def _with_digest(path, content):
    import hashlib

    _rewrite(path, {"templates_sha256": hashlib.sha256(content).hexdigest()}, content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"PK\x03\x04 no zip"),
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: _rewrite(path, drop="templates.npy"),
        lambda path: _rewrite(path, drop="gallery.json"),
        lambda path: _rewrite(path, {"format": "facekd gallery 99"}),
        lambda path: _rewrite(path, {"surprise": 1}),
        lambda path: _rewrite(path, {"people": [{"name": "Ada", "templates": [{"row": 7}]}]}),
        lambda path: _rewrite(path, {"people": [{"name": "Ada", "templates": [{"row": 0}] * 3}]}),
        lambda path: _rewrite(path, _told(photographs=10**30)),
        lambda path: _rewrite(path, _told(photographs=1001)),
        lambda path: _rewrite(path, _told(quality=float("nan"))),
        lambda path: _rewrite(path, _told(quality=1.5)),
        lambda path: _rewrite(path, array=_npy(np.eye(3, 128, dtype=np.float32))),
        lambda path: _with_digest(path, _npy(np.ones((3, 128), np.float32))),
        lambda path: _with_digest(path, _npy(np.full((3, 128), np.nan, np.float32))),
        lambda path: _with_digest(path, _npy(np.eye(3, 128))),
        lambda path: _with_digest(path, _npy(np.array([[object()] * 128] * 3))),
        lambda path: _with_digest(path, b"\x93NUMPY\x01\x00"),
        lambda path: path.unlink(),
    ],
    ids=[
        "no zip", "truncated", "no templates", "no table", "future format", "unknown key", "row out of range",
        "row twice", "endless photographs", "too many photographs", "no quality", "too much quality",
        "wrong digest", "not unit length", "not a number", "float64", "pickle", "short array", "absent",
    ],
)  # fmt: skip
def test_a_damaged_export_is_refused_whole(exported, open_gallery, tmp_path, damage):
    damage(exported)
    other = open_gallery(tmp_path / "other.db")
    with pytest.raises(DataError, match="export"):
        other.import_(exported)
    assert other.people() == []


def test_a_zip_bomb_is_not_inflated(exported):
    bomb = b"\x00" * (4 << 20)
    with zipfile.ZipFile(exported) as archive:
        table = archive.read("gallery.json")
    with zipfile.ZipFile(exported, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("gallery.json", table)
        archive.writestr("templates.npy", bomb)
    with pytest.raises(DataError, match="longer than it may be"):
        read_export(exported)


def test_an_empty_gallery_travels_too(open_gallery, tmp_path):
    assert open_gallery().export(tmp_path / "empty.zip") == 0
    assert open_gallery(tmp_path / "other.db").import_(tmp_path / "empty.zip").templates == 0


def test_an_export_that_cannot_be_written_is_said(open_gallery, tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        open_gallery().export(tmp_path / "absent" / "export.zip")


def test_an_export_replaces_nothing(open_gallery, unit, tmp_path):
    gallery = open_gallery()
    gallery.enrol("Ada", [unit(1)])
    (tmp_path / "notes.txt").write_text("mine")
    for there in (gallery.path, tmp_path / "notes.txt"):
        with pytest.raises(ConfigError, match="exists"):
            gallery.export(there)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert gallery.identify(unit(1)).person == "Ada"
