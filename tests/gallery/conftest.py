"""What the gallery's tests share: unit vectors instead of faces, and a pipeline that reads them off a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import ImageError
from facekd.gallery.calibration import Calibration, Curve, Point
from facekd.gallery.gallery import Gallery

CONTRACT = "0123456789abcdef"
DIMENSION = 128


@dataclass(frozen=True)
class FakeMask:
    status: str = "none"
    score: float = 0.99


@dataclass(frozen=True)
class FakeQuality:
    score: float = 0.9
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class FakeFace:
    embedding: np.ndarray
    box: np.ndarray = field(default_factory=lambda: np.array([10, 10, 110, 110], np.float32))
    mask: FakeMask = FakeMask()
    quality: FakeQuality = FakeQuality()
    crop: np.ndarray = field(default_factory=lambda: np.full((112, 112, 3), 128, np.uint8))


class FakePipeline:
    """Answers with the faces that were promised for a path; a path that nobody promised cannot be read."""

    def __init__(self, faces: dict[str, Sequence[FakeFace]]) -> None:
        self.faces = faces

    def analyze(self, image: object) -> list[FakeFace]:
        try:
            return list(self.faces[str(image)])
        except KeyError:
            raise ImageError(f"{image} is no picture") from None


@pytest.fixture
def unit() -> Callable[..., np.ndarray]:
    """`unit(seed)`: a unit vector; `unit(seed, near=v, cosine=c)`: one at that cosine to v."""

    def make(seed: int, near: np.ndarray | None = None, cosine: float = 0.0, dimension: int = DIMENSION) -> np.ndarray:
        vector = np.random.default_rng(seed).standard_normal(dimension)
        if near is not None:
            vector -= (vector @ near) * near
            vector = cosine * near + np.sqrt(1 - cosine**2) * vector / np.linalg.norm(vector)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    return make


@pytest.fixture
def make_face() -> type[FakeFace]:
    return FakeFace


@pytest.fixture
def make_mask() -> type[FakeMask]:
    return FakeMask


@pytest.fixture
def make_quality() -> type[FakeQuality]:
    return FakeQuality


@pytest.fixture
def make_pipeline() -> type[FakePipeline]:
    return FakePipeline


@pytest.fixture
def calibration() -> Calibration:
    """A straight line in log10(FMR): 0.3 at 1e-1, 0.1 more each decade, down to 0.7 at 1e-5."""
    points = tuple(Point(fmr=10.0**-n, threshold=0.2 + 0.1 * n, fmr_upper=min(1.0, 2 * 10.0**-n)) for n in range(1, 6))
    return Calibration(
        contract=CONTRACT, source="made up", unmasked=Curve(points=points, people=40, pairs=1_000_000, mated_pairs=1000)
    )


@pytest.fixture
def open_gallery(tmp_path: Path, calibration: Calibration) -> Callable[..., Gallery]:
    """`open_gallery()` opens tmp_path/gallery.db; what it opened is closed after the test."""
    opened: list[Gallery] = []

    def make(path: Path | None = None, **options: object) -> Gallery:
        defaults: dict[str, object] = {
            "contract": CONTRACT,
            "dimension": DIMENSION,
            "calibration": calibration,
            "clock": lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        }
        gallery = Gallery.open(path or tmp_path / "gallery.db", **{**defaults, **options})  # type: ignore[arg-type]
        opened.append(gallery)
        return gallery

    yield make  # type: ignore[misc]
    for gallery in opened:
        gallery.close()
