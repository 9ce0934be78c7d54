"""One SQLite connection: how it is opened, its transactions, and what its errors mean to a person."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facekd.errors import GalleryError
from facekd.gallery.records import NoGallery
from facekd.gallery.schema import APPLICATION_ID, PAGE_SIZE, current_version, migrate

RESTORE = "restore a backup with `facekd gallery restore`, or move the file away and enrol anew"

WAIT = "another process is writing to it: try again when it is done (from Python also: open it with a longer timeout_s)"

OWN_COPY = (
    "it cannot be written, which reading it needs, too (SQLite's WAL): check the permissions of the file and of its "
    "folder; who may only read it is given a copy of it, made by the owner with `facekd gallery backup`"
)

EMPTYING_MS = 1000
"""How long a removal waits for readers of an older state, until it says that not everything is erased yet."""

HEADER_BYTES = 100
"""Of an SQLite file."""

_REMEDIES = {
    sqlite3.SQLITE_BUSY: WAIT,
    sqlite3.SQLITE_LOCKED: WAIT,
    sqlite3.SQLITE_READONLY: OWN_COPY,
    sqlite3.SQLITE_PERM: OWN_COPY,
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its folder exists and may be written",
    sqlite3.SQLITE_IOERR: "the disk reports an error: check the disk; the last complete change is kept",
    sqlite3.SQLITE_FULL: "the disk is full: make room and repeat the change; nothing of it was stored",
    sqlite3.SQLITE_CORRUPT: f"the file is damaged: {RESTORE}",
    sqlite3.SQLITE_NOTADB: "the file is no gallery, or its beginning is damaged: check the path; if it is the gallery, "
    "move it away and restore a backup with `facekd gallery restore`, or enrol anew",
}

_MISSHAPEN = ("no such table", "no such column", "has no column", "unsupported file format")
"""In messages of SQLITE_ERROR: statements are always the same, so the file's contents are at fault."""

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
_LATER = _BUSY | {sqlite3.SQLITE_FULL}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a GalleryError that says what to do."""
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise GalleryError(f"gallery {path}: {error}; it was closed: open it again") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        remedy = _REMEDIES.get(code & 0xFF if code is not None else -1)
        if remedy is None and any(text in str(error) for text in _MISSHAPEN):
            remedy = f"its contents are not as a gallery's should be: {RESTORE}"
        if remedy is None:
            remedy = "this is an error in facekd, please report it, with what `facekd gallery check` says"
        raise GalleryError(f"gallery {path}: {error}; {remedy}") from error


def is_busy(error: GalleryError) -> bool:
    """Whether another process's change was in the way."""
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _BUSY


def is_damage(error: GalleryError) -> bool:
    """Whether the file's contents are at fault, and not a lock, a disk or a permission."""
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGE


def marked_as_gallery(path: Path) -> bool:
    """Whether a file begins as galleries do, whatever became of the rest of it."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    # https://www.sqlite.org/fileformat2.html#the_database_header
    return head[:16] == b"SQLite format 3\0" and int.from_bytes(head[68:72], "big") == APPLICATION_ID


class Connection:
    """A connection with explicit transactions, for one process and any number of its threads.

    Args:
        path: the gallery's file.
        create: make the file where there is none.
        timeout_s: how long a change waits for another process's change.
    """

    def __init__(self, path: Path, *, create: bool, timeout_s: float) -> None:
        self.path = path = path.absolute()  # programs change their working directory
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._depth = 0
        exists = path.is_file() and path.stat().st_size > 0
        if not exists and not create:
            raise NoGallery(f"there is no gallery at {path}: enrol somebody first, or check the path")
        if path.exists() and not path.is_file():
            raise GalleryError(f"{path} is not a file: name a file for the gallery")
        with explained(path):
            if not path.exists():
                _new_private_file(path)
            self._sqlite = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
            try:
                self._opened = _status(path)
                self._prepare_in_turn(create, timeout_s)
            except BaseException:
                self._sqlite.close()
                raise

    def _prepare_in_turn(self, create: bool, timeout_s: float) -> None:
        """Prepare, again and again while another process does so: SQLite does not wait for a switch to WAL itself."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                return self._prepare(create)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def _prepare(self, create: bool) -> None:
        run = self._sqlite.execute
        # Before anything is written: another program's database must not even be switched to WAL.
        # In one transaction: another process may be making this very gallery between two of the questions.
        run("BEGIN")
        try:
            tables = int(run("SELECT count(*) FROM sqlite_master").fetchone()[0])
            application = int(run("PRAGMA application_id").fetchone()[0])
            version = int(run("PRAGMA user_version").fetchone()[0])
        finally:
            run("COMMIT")
        if application != APPLICATION_ID and (application or version or tables):
            raise GalleryError(f"{self.path} is a database of another program, not a gallery: choose another path")
        if version == 0 and not create:
            raise NoGallery(f"the gallery at {self.path} is empty: enrol somebody first, or check the path")
        if version > current_version():
            raise GalleryError(
                f"the gallery at {self.path} has version {version}, this facekd reads up to {current_version()}: "
                "install a newer facekd"
            )
        run(f"PRAGMA page_size = {PAGE_SIZE}")
        run("PRAGMA journal_mode = WAL")
        # FULL: what was answered "enrolled" is still there after a power cut. NORMAL could lose the last changes.
        run("PRAGMA synchronous = FULL")
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA secure_delete = ON")
        if version < current_version():
            with self.writing():
                migrate(self._sqlite)

    @property
    def sqlite(self) -> sqlite3.Connection:
        """The connection itself, for statements inside a transaction."""
        if os.getpid() != self._process:
            raise GalleryError(f"gallery {self.path} was opened before this process was forked: open it again here")
        return self._sqlite

    def status(self) -> os.stat_result:
        """What the system says of the file, which must still be the one that was opened.

        Raises:
            GalleryError: it is not. SQLite would go on with the one that was opened, wherever that is now: people
                removed from the new file would be let in, and changes would be answered and lost.
        """
        status = _status(self.path)
        # On Windows, where numbers of files are not always kept, an open file can neither be moved nor replaced.
        if os.name != "nt" and not os.path.samestat(status, self._opened):
            raise GalleryError(f"gallery {self.path} was replaced by another file since it was opened: open it again")
        return status

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One change: all of it is kept, or nothing. Inside another change it is part of that one."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One view: every statement inside sees the same state, whatever other processes change meanwhile."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = self.sqlite  # asked for before the lock, which a thread that was not forked would hold for ever
        with self._lock, explained(self.path):
            if self._depth:
                yield connection
                return
            try:
                # In here: a signal's handler may raise as soon as the wait for another process's change is over.
                connection.execute(begin)
                self._depth = 1
                self.status()
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite has already rolled back after some errors (disk full)
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def erase_leftovers(self, *, vacuum: bool) -> bool:
        """Leave no deleted bytes in the file or its WAL.

        ``secure_delete`` has zeroed the deleted cells; VACUUM also drops copies that rebalanced pages left in their
        gaps; the checkpoint empties the WAL, which still holds the pages as they were.

        Returns:
            False when another process is reading or writing, when there is no room to rewrite the file, or when
            ``vacuum`` is False: to be tried again later. Nothing is lost then, since the change itself is done.
        """
        connection = self.sqlite
        with self._lock, explained(self.path):
            (patience_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
            try:
                if vacuum:
                    connection.execute("VACUUM")
                # While it waits for readers to leave the WAL it keeps every writer out.
                connection.execute(f"PRAGMA busy_timeout = {min(patience_ms, EMPTYING_MS)}")
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _LATER:
                    raise
                return False
            finally:
                connection.execute(f"PRAGMA busy_timeout = {patience_ms}")
            return vacuum and not busy

    def close(self) -> None:
        """Close; the last process to do so empties the WAL."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._sqlite.close()


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise GalleryError(
            f"gallery {path} is gone since it was opened ({error.strerror or error}): put it back, or open it again"
        ) from error


def _new_private_file(path: Path) -> None:
    """Make an empty file that only its owner may read: templates are personal data. SQLite's WAL inherits the mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        pass  # another process made it meanwhile
    except OSError as error:
        raise GalleryError(
            f"no gallery can be made at {path}: {error.strerror or error}; make its folder first, or name another path"
        ) from error
