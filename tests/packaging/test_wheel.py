"""The wheel, built from the clone and installed away from it, runs the demo: without torch, without the network.

The new environment sees exactly the distributions that the wheel declares (transitively), linked from the environment
that runs the tests. So an undeclared dependency fails here, nothing is downloaded, and `.ci/run` remains the proof that
an installation from a package index works.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]

BLOCKER = '''
"""Written by the wheel test: whatever opens a connection or imports torch fails."""
import socket
import sys


def _refuse(*_args, **_keywords):
    raise RuntimeError("the demo tried to reach the network")


socket.socket.connect = _refuse
socket.create_connection = _refuse
socket.getaddrinfo = _refuse


class _NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "lightning_fabric", "matplotlib", "sklearn"}:
            raise ImportError(f"the run time tried to import {name}")
        return None


sys.meta_path.insert(0, _NoTorch())
'''


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, since building leaves its traces beside pyproject.toml."""
    folder = tmp_path_factory.mktemp("wheel")
    litter = shutil.ignore_patterns(
        ".git", ".venv*", "build", "dist", "*.egg-info", ".*_cache", "__pycache__", "runs", "site", "facekd-out"
    )
    shutil.copytree(ROOT, folder / "clone", symlinks=True, ignore=litter)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "clone"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new virtual environment that has the wheel and what it declares, nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    command = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "-q", "--no-deps", "--no-index"]
    done = subprocess.run([*command, wheel], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    place = [programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(place, capture_output=True, text=True, check=True).stdout.strip())
    for name in sorted(_declared(wheel)):
        _link(metadata.distribution(name), packages)
    (packages / "sitecustomize.py").write_text(BLOCKER)
    return programs


def _declared(wheel: Path) -> set[str]:
    """Names of the distributions that the wheel needs without any extra, transitively."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    waiting = [(Requirement(line), "") for line in re.findall(r"^Requires-Dist: (.+)$", text, re.MULTILINE)]
    found: set[str] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        new = name not in found
        found.add(name)
        for wanted in {*requirement.extras, *([""] if new else [])}:
            waiting += [(Requirement(line), wanted) for line in metadata.requires(name) or []]
    return found


def _link(distribution: metadata.Distribution, packages: Path) -> None:
    """Link a distribution's top-level files and folders into the new environment."""
    for first in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
        source, target = Path(str(distribution.locate_file(first))), packages / first
        if source.exists() and not target.exists() and first != "__pycache__":
            target.symlink_to(source, target_is_directory=source.is_dir())


def test_the_wheel_holds_the_program_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert not archive.testzip()
    for needed in (
        "facekd/py.typed",
        "facekd/detection/anchors.py",
        "facekd/recognition/align.py",
        "facekd/gallery/gallery.py",
        "facekd/zoo/manifest.toml",
        "facekd/demo_data/obama.jpg",
        "facekd/demo_data/README.md",
    ):
        assert needed in names, f"{needed} is missing in the wheel"
    assert any(name.startswith("facekd/recipes/") and name.endswith(".toml") for name in names)
    foreign = {name for name in names if not name.startswith(("facekd/", "facekd-"))}
    assert not foreign
    for path in (ROOT / "facekd" / "zoo").glob("*.onnx"):
        assert f"facekd/zoo/{path.name}" in names


def test_torch_is_no_dependency(wheel: Path) -> None:
    declared = _declared(wheel)
    assert "numpy" in declared
    assert not declared & {"torch", "torchvision", "onnx", "lightning-fabric", "tensorboard", "matplotlib"}


def test_the_demo_runs_away_from_the_clone_without_torch_and_without_the_network(
    installed: Path, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FACEKD_"))}
    done = subprocess.run(
        [installed / "facekd", "demo", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["passed"] is True
    assert (tmp_path / answer["picture"]).stat().st_size > 10_000
