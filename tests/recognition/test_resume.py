"""A run of the embedder that is killed and resumed repeats the losses of one that was not."""

from __future__ import annotations

import io
import os
import runpy
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

SCRIPT = Path(__file__).with_name("resume_worker.py")


def write_shards(folder: Path) -> Path:
    """Five people of six crops and six of nobody to train on, two people of three to validate; a teacher of all."""
    rng = np.random.default_rng(0)
    rows = (
        [(f"p{k // 6}", "train") for k in range(30)] + [("", "train")] * 6 + [(f"v{k // 3}", "val") for k in range(6)]
    )
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number in range(len(rows)):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)).save(file, "PNG")
            archive.writestr(f"{number}.png", file.getvalue())
    lines = [f"a.zip,{number}.png,{who},{split}" for number, (who, split) in enumerate(rows)]
    (folder / "faces.csv").write_text("\n".join(["shard,file,identity,split", *lines]))
    np.save(folder / "teacher_sface.npy", rng.normal(size=(len(rows), 8)).astype(np.float16))
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_after_a_kill_the_next_twenty_losses_are_those_of_the_uninterrupted_run(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "crops")
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(data), str(tmp_path / "killed")]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    worker = runpy.run_path(str(SCRIPT))
    whole, seen = worker["run"](data, tmp_path / "whole")
    saved = torch.load(tmp_path / "killed" / "checkpoint.pt")
    step, after = worker["KILLED"], worker["AFTER"]
    assert saved["step"] == step
    # CurricularFace's t lies in the checkpoint: it has moved, and is what the uninterrupted run had then.
    assert seen[step] != 0.0
    assert float(saved["module"]["task.head.t"]) == pytest.approx(seen[step], abs=1e-7)
    rest, resumed = worker["run"](data, tmp_path / "killed")
    assert len(rest) == after == 20
    np.testing.assert_allclose(rest, whole[step:], rtol=0, atol=1e-6)
    np.testing.assert_allclose(resumed, seen[step:], rtol=0, atol=1e-6)
