"""The run time works where torch is not installed, and ``import facekd`` is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import facekd

pytestmark = pytest.mark.usefixtures("away_from_clone")

BLOCKED = ("torch", "torchvision", "lightning_fabric", "onnx", "onnxscript", "safetensors", "tensorboard", "sklearn")

RUN = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None  # importing it raises ImportError
import facekd
for name in facekd.__all__:
    getattr(facekd, name)
import numpy as np
image = np.full((200, 200, 3), 128, np.uint8)
image[50:150, 50:150] = [200, 60, 60]
image[50:150, 50:100] = [220, 80, 80]
assert len(facekd.FacePipeline(threads=1).analyze(image)) == 1
"""


def run(code: str) -> str:
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_run_time_without_training_packages(fake_zoo: Path) -> None:
    run(RUN)


def test_command_line_without_training_packages() -> None:
    run(f"import sys\nfor name in {BLOCKED!r}:\n    sys.modules[name] = None\nimport facekd.cli\nfacekd.cli.main")


def test_import_is_lazy() -> None:
    loaded = run(
        "import sys, facekd; print(*[m for m in ('numpy', 'cv2', 'onnxruntime', 'faiss') if m in sys.modules])"
    )
    assert loaded.split() == []


def test_public_names() -> None:
    for name in facekd.__all__:
        assert getattr(facekd, name).__name__ == name
    assert set(facekd.__all__) <= set(dir(facekd))
    assert facekd.__version__
    with pytest.raises(AttributeError, match=r"Detektor.*Detector"):
        facekd.Detektor  # noqa: B018


def test_a_type_checker_sees_the_names_that_there_are_and_no_others() -> None:
    body = ast.parse(Path(facekd.__file__).read_text(encoding="utf-8")).body
    assert not [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"]
    (shown,) = [node for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    names = {name.name for node in shown.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert names == set(facekd.__all__)
    assert "__version__: str" in map(ast.unparse, shown.body)
