"""The embedder: unit vectors, the same alone and in a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekd.errors import ModelError
from facekd.recognition.embedder import Embedder
from facekd.zoo import find_model


def crops(paint_face, *people: int) -> np.ndarray:
    batch = np.zeros((len(people), 112, 112, 3), np.uint8)
    for crop, person in zip(batch, people, strict=True):
        paint_face(crop, 0, 0, 112, person)
    return batch


def test_unit_vectors_that_tell_people_apart(fake_zoo: Path, paint_face) -> None:
    embedder = Embedder(threads=1)
    batch = crops(paint_face, 1, 2, 1)
    batch[2] = np.clip(batch[2].astype(int) + 6, 0, 255).astype(np.uint8)
    got = embedder.embed(batch)
    assert (got.dtype, got.shape, embedder.dimension) == (np.float32, (3, 512), 512)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    assert got[0] @ got[2] > 0.95
    assert got[0] @ got[1] < 0.5


def test_many_crops_go_in_parts(fake_zoo: Path, paint_face) -> None:
    embedder = Embedder(threads=1)
    batch = crops(paint_face, *range(70))
    together = embedder.embed(batch)
    alone = np.concatenate([embedder.embed(crop[None]) for crop in batch])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert embedder.embed(batch[:0]).shape == (0, 512)


def test_contract_is_the_records(fake_zoo: Path) -> None:
    assert Embedder().contract == find_model("embedder").contract


def test_wrong_crops_and_vectors_without_direction(fake_zoo: Path) -> None:
    embedder = Embedder(threads=1)
    with pytest.raises(ValueError, match="112"):
        embedder.embed(np.zeros((1, 100, 112, 3), np.uint8))
    embedder._session.run = lambda feeds: [np.zeros((1, 512), np.float32)]  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="direction"):
        embedder.embed(np.zeros((1, 112, 112, 3), np.uint8))
