"""Keeping a gallery healthy: check, key rotation, re-embedding after an upgrade."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facekd.errors import GalleryError
from facekd.gallery.backend import TemplateStore
from facekd.gallery.connection import Connection
from facekd.gallery.fusion import fused_embedding, parts_of
from facekd.gallery.gallery import Gallery
from facekd.gallery.records import UNIT_TOLERANCE, Health, Templates, check_templates
from facekd.gallery.sealing import KeySource, check_key_source

REEMBED_BATCH = 64


def is_encrypted(path: str | os.PathLike[str]) -> bool:
    """Whether a gallery's templates are sealed; no key is needed to tell.

    Raises:
        GalleryError: there is no gallery, or it is damaged.
    """
    with closing(Connection(Path(path), create=False, timeout_s=10.0)) as connection, connection.reading() as sqlite:
        return sqlite.execute("SELECT 1 FROM meta WHERE key = 'key_salt'").fetchone() is not None


def check(gallery: Gallery, *, audit_head: str | None = None) -> Health:
    """Look through the whole gallery, and finish erasing what was removed.

    Args:
        gallery: any number of other processes may be using it.
        audit_head: a digest of the audit log noted earlier, which must still be in it.

    Returns:
        What was found. ``problems`` is empty in a healthy gallery.
    """
    store = gallery.store
    problems = store.faults(audit_head)
    erased = store.erase_leftovers(whole=True)
    with store.reading():
        people = store.people()
        for person in people:
            problems += _check_person(store, person.number, person.name)
    return Health(
        people=len(people),
        templates=sum(person.templates for person in people),
        contract=gallery.contract,
        schema=store.schema,
        encrypted=store.encrypted,
        problems=tuple(problems),
        erased=erased,
    )


def _check_person(store: TemplateStore, number: int, name: str) -> list[str]:
    try:
        templates = store.templates_of(number)
    except GalleryError as error:
        return [f"{name!r}: {error}"]
    lengths = [float(np.linalg.norm(template.embedding)) for template in templates]
    return [
        f"{name!r}: template {template.id} has length {length:.3g}, wanted 1"
        for template, length in zip(templates, lengths, strict=True)
        if not abs(length - 1.0) <= UNIT_TOLERANCE
    ]


def rotate_key(gallery: Gallery, key: KeySource) -> bool:
    """Seal everything under another key, or encrypt a gallery that is not encrypted yet.

    One transaction: a process that is killed leaves the gallery under the old key or under the new one. Other
    processes that have the gallery open ask their key source again, and stop with an error where it still gives the
    old key.

    Returns:
        False where records as they were, in the clear or under the old key, are still in the gallery's files, because
        another process reads an older state or writes: :func:`check` finishes the job.

    Raises:
        ConfigError: what ``key`` gives is no 256-bit key.
    """
    check_key_source(key)
    store = gallery.file_store("encryption")
    with store.writing():
        store.seal_under(key)
        store.log(gallery.now(), "rotate-key", {"templates": store.count_templates()})
    store.use_key(key)
    # What was sealed under the old key, or not at all, must not linger in free pages.
    return store.erase_leftovers(whole=True)


def reembed(
    gallery: Gallery, embed: Callable[[npt.NDArray[np.uint8]], Templates], *, contract: str, dimension: int
) -> int:
    """Make every template anew from the kept crops, after a model upgrade. One transaction.

    Args:
        gallery: is closed afterwards; open it again with the new contract.
        embed: crops (N, 112, 112, 3) RGB uint8 to embeddings (N, dimension): ``Embedder.embed`` of the new model.
        contract: of the new model.
        dimension: of the new model.

    Returns:
        How many templates were made.

    Raises:
        GalleryError: crops were not kept for some template: only photographs can help then.
    """
    store = gallery.file_store("re-embedding")
    with store.writing():
        # What was fused of photographs that lie beside it has no crop, and is fused anew of theirs.
        fused = {
            (template.id, number): parts
            for number in store.owners_of_fused()
            for own in [store.templates_of(number)]
            for template in own
            if (parts := parts_of(template, own))
        }
        anew: dict[int, Templates] = {part.id: part.embedding for parts in fused.values() for part in parts}
        owners = [owned for owned in store.all_owners() if owned not in fused]
        lacking = store.count_lacking_crops() - len(fused)
        if lacking:
            raise GalleryError(
                f"gallery {gallery.path} keeps no crop for {lacking} of {len(owners)} templates, which cannot be made "
                "anew: enrol the people again from photographs (with --keep-crops, to be ready for the next model)"
            )
        for start in range(0, len(owners), REEMBED_BATCH):
            portion = owners[start : start + REEMBED_BATCH]
            crops = np.stack([crop for identifier, _ in portion if (crop := store.crop(identifier)) is not None])
            for (identifier, number), embedding in zip(portion, check_templates(embed(crops), dimension), strict=True):
                store.replace_embedding(identifier, number, embedding)
                if identifier in anew:
                    anew[identifier] = embedding
        for (identifier, number), parts in fused.items():
            renewed = fused_embedding([replace(part, embedding=anew[part.id]) for part in parts])
            store.replace_embedding(identifier, number, renewed)
        store.set_meta("contract", contract)
        store.set_meta("dimension", str(dimension))
        store.note_reload()
        store.log(gallery.now(), "reembed", {"contract": contract, "templates": len(owners) + len(fused)})
    store.connection.erase_leftovers(vacuum=True)
    gallery.close()
    return len(owners) + len(fused)
