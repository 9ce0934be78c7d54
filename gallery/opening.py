"""From a gallery's location to the back end that keeps it."""

from __future__ import annotations

from pathlib import Path

from facekd.gallery.backend import PeopleIndex, TemplateStore
from facekd.gallery.live import LiveIndex
from facekd.gallery.location import MilvusAddress
from facekd.gallery.sealing import KeySource
from facekd.gallery.store import Store


def open_backend(
    location: Path | MilvusAddress,
    *,
    contract: str | None,
    dimension: int,
    create: bool,
    key: KeySource | None,
    timeout_s: float,
) -> tuple[TemplateStore, PeopleIndex]:
    """Open what keeps a gallery, and what finds people in it; arguments as for :meth:`Gallery.open`.

    Raises:
        GalleryError: no such gallery, damaged, locked, not reached, of another model, or its key is wrong or missing.
    """
    if isinstance(location, MilvusAddress):
        from facekd.gallery.milvus import MilvusStore  # pymilvus takes a second, and is optional
        from facekd.gallery.milvus_index import MilvusIndex

        kept = MilvusStore.open(
            location, contract=contract, dimension=dimension, create=create, key=key, timeout_s=timeout_s
        )
        return kept, MilvusIndex(kept)
    store = Store.open(location, contract=contract, dimension=dimension, create=create, key=key, timeout_s=timeout_s)
    return store, LiveIndex(store)
