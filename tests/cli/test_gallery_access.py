"""What a gallery that the command line makes takes over from the embedder and from the options."""

from __future__ import annotations

from types import SimpleNamespace

import faiss
import pytest

from facekd.cli.gallery_access import open_with_pipeline
from facekd.runtime import default_threads, set_default_threads


@pytest.fixture
def _threads_as_they_were():
    threads, searching = default_threads(), faiss.omp_get_max_threads()
    yield
    set_default_threads(threads)
    faiss.omp_set_num_threads(searching)


@pytest.mark.usefixtures("_threads_as_they_were")
def test_a_new_gallery_takes_the_embedders_dimension_and_the_threads(tmp_path, monkeypatch):
    def narrow(record):
        return SimpleNamespace(contract=record.contract, dimension=96, embed=None)

    monkeypatch.setattr("facekd.recognition.embedder.Embedder", narrow)
    faiss.omp_set_num_threads(2)
    set_default_threads(1)
    gallery, pipeline = open_with_pipeline(str(tmp_path / "gallery.db"), None, create=True)
    with gallery:
        assert gallery.dimension == pipeline.embedder.dimension == 96
    assert faiss.omp_get_max_threads() == 1
    set_default_threads(0)
    again, _ = open_with_pipeline(str(tmp_path / "gallery.db"), None)
    with again:
        assert again.dimension == 96
    assert faiss.omp_get_max_threads() == 1  # 0 changes nothing
