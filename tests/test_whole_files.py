"""A file is there whole, or what was there before is: after a kill, an error, a full disk, and between two writers."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import ImageError
from facekd.evaluation.verification import det_curve
from facekd.gallery.calibration import Calibration, Curve, Point
from facekd.images import save_image
from facekd.whole_files import whole_file, write_whole
from facekd.zoo import load_manifest
from facekd.zoo.writing import write_manifest


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "scores.json"
    path.write_text("old")
    return path


def only(path: Path) -> str:
    """What a file holds, which is alone in its folder."""
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    return path.read_text(encoding="utf-8")


def start(code: str, *arguments: Path) -> subprocess.Popen[str]:
    code = "import sys\nfrom facekd.whole_files import whole_file, write_whole\n" + code
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_what_was_written_is_there(tmp_path: Path) -> None:
    for content, found in (("ü\n", b"\xc3\xbc\n"), (b"\x00\r\n", b"\x00\r\n"), ("", b"")):
        write_whole(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == found
    assert len(list(tmp_path.iterdir())) == 1


def test_until_the_block_ends_the_old_content_is_there(old: Path) -> None:
    with whole_file(old, durable=True) as part:
        assert (part.parent, part.suffix) == (old.parent, ".json")  # one disk; libraries tell formats by the suffix
        part.write_text("new")
        assert old.read_text() == "old"
    assert only(old) == "new"


@pytest.mark.parametrize("error", [ValueError("no number"), KeyboardInterrupt()], ids=repr)
def test_after_an_error_the_old_content_stays_and_no_part(old: Path, error: BaseException) -> None:
    def fail(part: Path) -> None:
        part.write_text("half")
        raise error

    with pytest.raises(type(error)), whole_file(old) as part:
        fail(part)
    assert only(old) == "old"


def test_text_that_cannot_be_written(old: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_whole(old, "\udce9")
    assert only(old) == "old"


def test_killed_in_the_middle(old: Path) -> None:
    write_half = "part.write_text('half'), print(part.name, flush=True), sys.stdin.read()"
    with start(f"with whole_file(sys.argv[1]) as part:\n {write_half}", old) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    assert old.read_text() == "old"
    assert (old.parent / name).read_text() == "half"  # so it was in the middle
    assert name.startswith(".")  # no list of pictures has it
    write_whole(old, "new")
    assert old.read_text() == "new"


def test_two_processes_at_once(old: Path) -> None:
    code = (
        "text = sys.argv[2] * 300_000\nprint(flush=True)\nsys.stdin.readline()\n"
        "for _ in range(30):\n write_whole(sys.argv[1], text)"
    )
    writers = [start(code, old, Path(letter)) for letter in "ab"]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdin is not None
        writer.stdout.readline()
        writer.stdin.write("\n")
        writer.stdin.flush()
    seen: set[str] = set()
    while any(writer.poll() is None for writer in writers):
        seen.add(old.read_text())
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert seen | {only(old)} <= {"old", "a" * 300_000, "b" * 300_000}


@contextmanager
def no_room() -> Iterator[None]:
    """No file gets longer than 64 bytes, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_no_room(old: Path) -> None:
    with pytest.raises(OSError, match=r"scores\.json") as caught, no_room():  # not the part, of which nobody knows
        write_whole(old, "n" * 65)
    assert caught.value.errno == errno.EFBIG
    assert str(caught.value.filename) == str(old)
    assert only(old) == "old"


def save_calibration(path: Path) -> None:
    points = (Point(fmr=1e-2, threshold=0.3), Point(fmr=1e-3, threshold=0.4))
    Calibration(contract="c", source="made up", unmasked=Curve(points=points, people=40, pairs=9)).save(path)


def save_picture(path: Path) -> None:
    save_image(path, np.random.default_rng(0).integers(0, 256, (99, 99, 3)).astype(np.uint8))


def save_curve(path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves need the extra bench")
    from facekd.bench.plots import plot_det

    plot_det(path, {"mine": det_curve(np.array([0.5, 0.8]), np.array([0.1, 0.6]))})


def save_manifest(path: Path) -> None:
    write_manifest(load_manifest(), path)


WRITERS = [(save_calibration, "a.json"), (save_picture, "a.png"), (save_curve, "a.png"), (save_manifest, "a.toml")]


@pytest.mark.parametrize(("write", "name"), WRITERS, ids=[write.__name__ for write, _ in WRITERS])
def test_what_a_user_has_outlives_a_full_disk(write: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    target = tmp_path / name
    write(target)
    before = target.read_bytes()
    assert len(before) > 64
    with pytest.raises((OSError, ImageError), match=re.escape(str(target))), no_room():
        write(target)
    assert target.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_nobody_may_write_to(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object) -> int:  # a superuser is refused nothing
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(PermissionError) as caught:
            write_whole(old, "new")
    assert caught.value.filename == str(old)
    assert only(old) == "old"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "no" / "a.json", "new")
    assert caught.value.filename == str(tmp_path / "no" / "a.json")


def test_an_error_about_another_file_keeps_its_name(old: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), whole_file(old):
        Path("elsewhere").read_bytes()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_permissions_of_what_is_replaced_are_kept(old: Path, mode: int) -> None:
    old.chmod(mode)
    with whole_file(old) as part:
        assert part.stat().st_mode & 0o777 & ~mode == 0  # nobody else may look on
        part.unlink()
        part.write_text("new")  # a library that writes aside, too
    assert old.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(("private", "mode"), [(False, 0o640), (True, 0o600)])
def test_permissions_of_a_new_file(tmp_path: Path, private: bool, mode: int) -> None:
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a", private=private) as part:
            assert part.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is protected from a superuser")
def test_a_protected_file_is_not_replaced(old: Path) -> None:
    old.chmod(0o400)
    with pytest.raises(PermissionError, match=r"scores\.json"):
        write_whole(old, "new")
    assert only(old) == "old"


def test_a_link_stays_one(old: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.json"
    link.symlink_to(old)
    write_whole(link, "new")
    assert link.is_symlink()
    assert old.read_text() == "new"


def test_a_pipe_is_written_to_and_a_folder_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert pipe.is_fifo()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, "new")
