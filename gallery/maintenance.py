"""Keeping a gallery healthy: check, backup and restore while in use, key rotation, re-embedding after an upgrade."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facekd.errors import ConfigError, GalleryError
from facekd.gallery import cache
from facekd.gallery.backend import TemplateStore
from facekd.gallery.connection import Connection, explained, is_damage
from facekd.gallery.fusion import fused_embedding, parts_of
from facekd.gallery.gallery import Gallery
from facekd.gallery.records import UNIT_TOLERANCE, Health, NoGallery, Templates, check_templates
from facekd.gallery.sealing import KeySource

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


def backup(gallery: Gallery, path: str | os.PathLike[str]) -> int:
    """Write a copy of the gallery as it is at one moment, while others go on reading and writing.

    The copy is a gallery of its own, encrypted when the gallery is, with the same key.

    Returns:
        Its size in bytes.

    Raises:
        ConfigError: the file exists or cannot be written.
    """
    store, target = gallery.file_store("a backup"), Path(path)
    if target.exists():
        raise ConfigError(f"{target} exists: name another file for the backup, or move this one away")
    partial = _private_part(target)
    try:
        with explained(store.path), store.reading(), closing(sqlite3.connect(partial)) as copy:
            store.connection.sqlite.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a WAL beside it
        with _writing_to(target):
            _settle(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return target.stat().st_size


def restore(
    backup_path: str | os.PathLike[str], path: str | os.PathLike[str], *, key: KeySource | None = None
) -> Health:
    """Put a backup in the place of a gallery.

    A readable gallery is replaced in one transaction, also while other processes have it open: they go on with the
    restored state. A damaged one is replaced as a file: stop the processes that have it open first.

    Args:
        backup_path: made by :func:`backup`; it is checked first and never changed.
        path: the gallery to replace; it need not exist.
        key: of an encrypted backup.

    Raises:
        GalleryError: the backup is damaged, or its key is wrong; the gallery stays as it was.
    """
    source, target = Path(backup_path), Path(path)
    if not source.is_file():
        raise ConfigError(f"there is no backup at {source}: check the path")
    partial = _private_part(target)
    try:
        with _writing_to(target):
            shutil.copyfile(source, partial)
        with Gallery.open(partial, key=key) as copy:
            health = check(copy)
            if health.problems:
                raise GalleryError(f"the backup {source} is damaged: {health.problems[0]}; use another one")
            store = copy.file_store("a restored backup")
            with store.writing():
                # Readers compare journal numbers: this one must be new to all of them.
                store.skip_journal_to(_journal_end(target))
                store.note_reload()
                store.log(copy.now(), "restore", {"templates": health.templates})
            store.connection.erase_leftovers(vacuum=False)
        with _writing_to(target):
            # Before the file: killed in between, the restored gallery must not find an index of what it replaced.
            cache.drop(target)
            if not _overwrite(partial, target):
                for suffix in ("-wal", "-shm"):
                    target.with_name(target.name + suffix).unlink(missing_ok=True)
                _settle(partial, target)
            cache.drop(target)
    finally:
        for suffix in ("", "-wal", "-shm", ".index"):
            partial.with_name(partial.name + suffix).unlink(missing_ok=True)
    return health


def rotate_key(gallery: Gallery, key: KeySource) -> bool:
    """Seal everything under another key, or encrypt a gallery that is not encrypted yet.

    One transaction: a process that is killed leaves the gallery under the old key or under the new one. Other
    processes that have the gallery open ask their key source again, and stop with an error where it still gives the
    old key.

    Returns:
        False where records as they were, in the clear or under the old key, are still in the gallery's files, because
        another process reads an older state or writes: :func:`check` finishes the job.
    """
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


@contextmanager
def _writing_to(target: Path) -> Iterator[None]:
    """Say what a full disk or a missing permission means."""
    try:
        yield
    except OSError as error:
        raise GalleryError(
            f"{target} cannot be written: {error.strerror or error}; what was there is unchanged: make room, or check "
            "permissions, and try again"
        ) from error


def _private_part(target: Path) -> Path:
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror or error}") from error
    return partial


def _settle(partial: Path, target: Path) -> None:
    """Let a complete file appear under its name, safe from a power cut."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)


def _journal_end(target: Path) -> int:
    with _readable(target) as connection:
        if connection is None:
            return 0
        with connection.reading() as sqlite:
            row = sqlite.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").fetchone()
            return int(row[0]) if row else 0


def _overwrite(partial: Path, target: Path) -> bool:
    """Copy over a readable gallery in one transaction; False where there is none."""
    with _readable(target) as connection:
        if connection is None:
            return False
        with explained(target), closing(sqlite3.connect(partial)) as source:
            source.backup(connection.sqlite)
        return True


@contextmanager
def _readable(target: Path) -> Iterator[Connection | None]:
    """A gallery's connection; None where there is no gallery, or a damaged one.

    Raises:
        GalleryError: it is there and cannot be opened now: what others may be using must not be replaced as a file.
    """
    connection = None
    try:
        connection = Connection(target, create=False, timeout_s=10.0)
        with connection.reading() as sqlite:
            sqlite.execute("SELECT count(*) FROM sqlite_sequence").fetchone()
    except GalleryError as error:
        if connection is not None:
            connection.close()
        if not (isinstance(error, NoGallery) or is_damage(error)):
            raise
        connection = None
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()
