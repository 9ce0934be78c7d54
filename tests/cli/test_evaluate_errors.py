"""`facekd evaluate` told something wrong: it says what, before it embeds anything, and exits with the right code."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekd import cli
from facekd.images import save_image

LIST = "Ada/1.png,Ada/2.png,1\nBob/1.png,Bob/2.png,1\nAda/1.png,Bob/1.png,0\nBob/2.png,Ada/2.png,0\n"


@pytest.fixture
def own(tmp_path: Path, fake_zoo: Path, paint_face: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of people, a list of pairs, and models; the working folder, so that tests can name them briefly."""
    for person, name in enumerate(("Ada", "Bob")):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in (1, 2):
            image = np.full((200, 200, 3), 128, np.uint8)
            paint_face(image, 60, 60, 70 + 5 * number, person=person)
            save_image(tmp_path / "own" / name / f"{number}.png", image)
    (tmp_path / "list.csv").write_text(LIST)
    (tmp_path / "missing.csv").write_text(LIST.replace("Ada/2", "Ada/9"))
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "groups.csv").write_text("person,group\nAda,x\nBob,x\n")
    (tmp_path / "strangers.csv").write_text("person,group\nCy,x\n")
    (tmp_path / "set.bin").write_bytes(b"nothing")
    (tmp_path / "faces.csv").write_text("shard,file,identity,split\n.,a.png,p,test\n.,own/Ada/1.png,q,test\n")
    shutil.copy(fake_zoo / "fake-detector.onnx", tmp_path / "alone.onnx")
    shutil.copytree(tmp_path / "own", tmp_path / "damaged")
    (tmp_path / "damaged" / "Bob" / "2.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_own_pairs_with_groups(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--groups", "groups.csv", "--sheet", "sheet.png", "--plot", "det.pdf"]
    assert cli.run(["evaluate", "pairs", "list.csv", "own", *words]) == 0
    shown = capsys.readouterr().out
    assert "100.00 %" in shown
    # Four pairs of two people in one group, of which the list has two.
    assert re.search(r"x +│ 4 +│ 4 +│ \d\.\de[-+]\d\d \([0-4]\) ", shown)
    assert (own / "sheet.png").is_file()
    assert (own / "det.pdf").is_file()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("pairs missing.csv own", 3, "1 of the 4 photographs in missing.csv are not in own: Ada/9.png"),
        ("pairs empty.txt own", 3, "wanted one line a pair"),
        ("pairs nothing.csv own", 2, "does not exist"),
        ("pairs list.csv damaged", 3, "Bob/2.png: the picture"),
        ("pairs list.csv own --aligned", 3, "Ada/1.png is 200x200; an aligned crop is 112x112"),
        ("pairs list.csv own --model detector", 2, "a model for 'embedder' is needed"),
        ("pairs list.csv own --detector embedder", 2, "a model for 'detector' is needed"),
        ("pairs list.csv own --model alone.onnx", 2, "facekd import-teacher"),
        ("pairs list.csv own --model nothing.onnx", 2, "there is no file nothing.onnx"),
        ("pairs list.csv own --plot nowhere/x.png", 2, "there is no folder nowhere"),
        ("pairs list.csv own --plot x.csv", 2, "the suffix must be one of .png, .pdf"),
        ("pairs list.csv own --sheet x.gif", 2, "the suffix must be one of .png, .jpg"),
        ("pairs list.csv own --groups strangers.csv", 3, "no group for any photograph"),
        ("lfw own", 3, "LFW's pairs.txt (view 2) belongs beside the photographs"),
        ("lfw own --peer yunet", 2, "the peer here is sface"),
        ("cfp own", 3, "Data/Images/NNN/frontal"),
        ("ijb own", 3, "that InsightFace hands out"),
        ("bin set.bin", 3, "wanted a set of InsightFace"),
        ("crops own", 3, "facekd prepare FOLDER OUT writes faces.csv"),
        ("crops .", 3, "1 of the 2 photographs in the table of . are not in .: a.png"),
        ("crops . --group hat", 2, "no column 'hat', only shard, file"),
        ("crops . --embeddings set.bin", 3, "Cannot read the embeddings"),
        ("wider own --labels empty.txt", 3, "labels no face in 0 photographs"),
        ("detection own --labels empty.txt", 3, "labels no face in 0 photographs"),
    ],
)
@pytest.mark.usefixtures("own")
def test_errors_say_what_and_what_to_do(words: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", *words.split()]) == code
    # A box of typer's breaks lines where it likes.
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert said in error
