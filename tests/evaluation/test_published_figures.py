"""Our arithmetic gives the figures that are published beside the photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekd.recognition.evaluate_crops import crop_embeddings, evaluate_crops, read_crop_table


@pytest.mark.parametrize(
    ("split", "tar"), [("val", (0.924, 0.819, 0.693, 0.569)), ("test", (0.929, 0.838, 0.727, 0.608))]
)
def test_teacher_on_all_pairs_of_crops(shared_data: Path, split: str, tar: tuple[float, ...]) -> None:
    crops = read_crop_table(shared_data / "faces", "faces.csv", split)
    embeddings = crop_embeddings(crops, None, shared_data / "faces" / "teacher_sface.npy")
    figures = evaluate_crops(crops, embeddings, replicates=0)
    assert list(figures["tar"].values()) == pytest.approx(tar, abs=1e-3)
    assert list(figures["tar"]) == ["1e-2", "1e-3", "1e-4", "1e-5"]
    assert figures["identities"] == 40
