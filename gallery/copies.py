"""Copies of a gallery: a backup while others use it, and a backup put in a gallery's place."""

from __future__ import annotations

import mmap
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from facekd.errors import ConfigError, GalleryError
from facekd.gallery import cache
from facekd.gallery.connection import Connection, explained, is_damage, marked_as_gallery
from facekd.gallery.gallery import Gallery
from facekd.gallery.maintenance import check, is_encrypted
from facekd.gallery.records import NoGallery
from facekd.gallery.sealing import KeySource
from facekd.gallery.store import Store


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore put in place.

    Attributes:
        people, templates, encrypted: what the gallery is now.
        damaged: where the gallery that lay there before is kept, if it was damaged.
    """

    people: int
    templates: int
    encrypted: bool
    damaged: Path | None = None


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
    with store.reading():
        _copy(store.connection, target)
    return target.stat().st_size


def restore(
    backup_path: str | os.PathLike[str], path: str | os.PathLike[str], *, key: KeySource | None = None
) -> Restored:
    """Put a backup in the place of a gallery.

    A gallery that opens is replaced in one transaction, also while other processes have it open: they go on with the
    restored state. If any part of it is damaged, a copy is kept beside it first (``people.db.damaged-DATE``). One that
    does not open is moved there and replaced as a file: processes that have it open are refused until they open it
    again. Whatever is no gallery is left alone.

    Args:
        backup_path: made by :func:`backup`; it is checked first and never changed.
        path: the gallery to replace; it need not exist.
        key: of an encrypted backup. In an encrypted gallery of another key, damage to single records is not seen.

    Raises:
        ConfigError: there is no backup, or the gallery is encrypted and the backup is not.
        GalleryError: the backup is damaged, or its key is wrong, or what is to be replaced is no gallery; everything
            stays as it was.
    """
    source, target = Path(backup_path), Path(path)
    if not source.is_file():
        raise ConfigError(f"there is no backup at {source}: check the path")
    if target.exists() and not target.is_file():
        raise ConfigError(f"{target} is not a file: name the gallery's file")
    sealed = _holds_sealed(target)
    partial = _private_part(target)
    try:
        with _writing_to(target):
            shutil.copyfile(source, partial)
        if sealed and not is_encrypted(partial):
            raise ConfigError(
                f"gallery {target} is encrypted and the backup {source} is not: everybody's templates would lie in the "
                "clear again. Restore it to another file, seal that one with `facekd gallery rotate-key`, and restore "
                "from there; or move the gallery away first"
            )
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
        damaged = _keep_damaged(target, key if sealed else None)
        with _writing_to(target):
            # Before the file: killed in between, the restored gallery must not find an index of what it replaced.
            cache.drop(target)
            if not _overwrite(partial, target):
                damaged = _move_aside(target)
                _settle(partial, target)
            cache.drop(target)
    finally:
        for suffix in ("", "-wal", "-shm", ".index"):
            partial.with_name(partial.name + suffix).unlink(missing_ok=True)
    return Restored(health.people, health.templates, health.encrypted, damaged)


def _holds_sealed(target: Path) -> bool:
    """Whether a gallery is encrypted; asked of a damaged one, too, as far as its bytes still tell.

    Raises:
        GalleryError: what is there is no gallery, or cannot be opened now.
    """
    with _readable(target) as connection:
        if connection is not None:
            return is_encrypted(target)
    if not target.exists() or target.stat().st_size == 0:
        return False
    with target.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"key_salt") >= 0


def _move_aside(target: Path) -> Path | None:
    """Keep a gallery that does not open under another name."""
    if not target.exists() or target.stat().st_size == 0:
        return None
    aside = _name_aside(target)
    try:
        os.link(target, aside)  # killed before the new file is there, the old one still is
    except OSError:  # a file system without hard links
        target.rename(aside)
    wal = target.with_name(target.name + "-wal")
    if wal.exists():
        wal.replace(aside.with_name(aside.name + "-wal"))
    target.with_name(target.name + "-shm").unlink(missing_ok=True)
    return aside


def _keep_damaged(target: Path, key: KeySource | None) -> Path | None:
    """Copy a gallery that opens, but is damaged in some part: it may hold people whom the backup does not know."""
    with _readable(target) as connection:
        if connection is None or _is_whole(connection, key):
            return None
        aside = _name_aside(target)
        _copy(connection, aside)
    return aside


def _is_whole(connection: Connection, key: KeySource | None) -> bool:
    """Whether all pages of a gallery are in order, and all its records, as far as the key opens them."""
    try:
        with connection.reading() as sqlite:
            if sqlite.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
                return False
        opened = Store.open(connection.path, contract=None, dimension=0, create=False, key=key, timeout_s=10.0)
    except GalleryError as error:
        return key is not None and not is_damage(error)  # another key than the backup's
    except (TypeError, ValueError):  # the model's name is no text, or the dimension no number
        return False
    with closing(opened) as store:
        try:
            with store.reading():
                store.people()
                for _ in store.templates():
                    pass
            return not store.faults(None)
        except (GalleryError, TypeError, ValueError):
            return False


def _name_aside(target: Path) -> Path:
    """A free name for a damaged gallery: somebody may yet save people from it, or must delete it."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    aside = target.with_name(f"{target.name}.damaged-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = target.with_name(f"{target.name}.damaged-{stamp}-{number}")
    return aside


def _copy(connection: Connection, target: Path) -> None:
    """Write the pages of one moment to a new file, complete or not at all.

    Through SQLite: a process that opens and closes the file itself gives up the locks that it holds on it.
    """
    partial = _private_part(target)
    try:
        with explained(connection.path), connection.reading() as sqlite, closing(sqlite3.connect(partial)) as copy:
            sqlite.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a WAL beside it
        with _writing_to(target):
            _settle(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


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
    """Copy over a gallery that opens in one transaction; False where there is none."""
    with _readable(target) as connection:
        if connection is None:
            return False
        with explained(target), closing(sqlite3.connect(partial)) as source:
            source.backup(connection.sqlite)
        return True


@contextmanager
def _readable(target: Path) -> Iterator[Connection | None]:
    """A gallery's connection; None where there is no gallery, or one too damaged to open.

    Raises:
        GalleryError: it is there and cannot be opened now: what others may be using must not be replaced as a file.
            Or it is, and never was, a gallery: a mistyped path must not cost a photograph.
    """
    connection = None
    try:
        connection = Connection(target, create=False, timeout_s=10.0)
        with connection.reading() as sqlite:
            sqlite.execute("SELECT count(*) FROM sqlite_sequence").fetchone()
            sqlite.execute(
                "SELECT hex(key), hex(value) FROM meta"
            ).fetchall()  # in hexadecimal: it may be no text any more
    except (GalleryError, UnicodeDecodeError) as error:  # the latter of names of tables that are none any more
        if connection is not None:
            connection.close()
        damaged = isinstance(error, UnicodeDecodeError) or is_damage(error)
        if not (isinstance(error, NoGallery) or damaged):
            raise
        if damaged and not marked_as_gallery(target):
            raise GalleryError(
                f"{target} is no gallery, or its beginning is damaged: check the path; if this is the gallery, move "
                "the file away and restore again"
            ) from error
        connection = None
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()
