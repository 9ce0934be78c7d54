"""What tests share: where the photographs are, and whether the shipped models are there."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of research photographs beside the clone; tests that need it are skipped in a bare clone."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the research photographs in ../shared/data, which a bare clone does not have")
    return folder


@pytest.fixture(scope="session")
def portraits() -> Path:
    """The packaged portraits: obama.jpg, obama2.jpg, obama3.jpg, biden.jpg, hopper.jpg."""
    return ROOT / "facekd" / "demo_data"
