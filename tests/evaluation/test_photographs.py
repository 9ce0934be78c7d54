"""Photographs from folders and archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from facekd.errors import DataError
from facekd.evaluation.photographs import Photographs, folder_or_archive


@pytest.fixture(params=["folder", "archive"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "archive":
        with zipfile.ZipFile(tmp_path / "test.zip", "w") as archive:
            archive.writestr("a/1.jpg", b"one")
            archive.writestr("2.jpg", b"two")
    else:
        (tmp_path / "test" / "a").mkdir(parents=True)
        (tmp_path / "test" / "a" / "1.jpg").write_bytes(b"one")
        (tmp_path / "test" / "2.jpg").write_bytes(b"two")
    return tmp_path


def test_both_read_alike(root: Path) -> None:
    photographs = folder_or_archive(root, "test")
    assert photographs.names() == ["2.jpg", "a/1.jpg"]
    assert photographs.read("a/1.jpg") == b"one"
    with pytest.raises(DataError, match=r"3\.jpg"):
        photographs.read("3.jpg")


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/hostname"])
def test_names_stay_inside(root: Path, name: str) -> None:
    (root / "secret").write_bytes(b"secret")
    with pytest.raises(DataError):
        folder_or_archive(root, "test").read(name)


def test_the_root_itself_serves(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"one")
    assert folder_or_archive(tmp_path, "photographs").names() == ["1.jpg"]


def test_missing_and_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither"):
        Photographs(tmp_path / "absent")
    (tmp_path / "x.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="Cannot read the archive"):
        Photographs(tmp_path / "x.zip")


@pytest.mark.parametrize("archived", [False, True])
def test_what_a_list_wants_is_looked_for_at_once(tmp_path: Path, archived: bool) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.jpg").write_bytes(b"a")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("x/a.jpg", b"a")
    photographs = Photographs(tmp_path / "p.zip" if archived else tmp_path)
    photographs.require(["x/a.jpg"], "list.txt")
    with pytest.raises(DataError, match=r"4 of the 5 photographs in list.txt are not in .*: b.jpg, c.jpg, x, …$"):
        photographs.require(["x/a.jpg", "b.jpg", "c.jpg", "x", "d.jpg"], "list.txt")
