"""What a gallery keeps, in SQLite: people, templates, crops where wanted, and whose embedder made them.

Every method that changes something is called inside :meth:`Store.writing`, and every one that reads inside
:meth:`Store.reading` or :meth:`Store.writing`: one change is one transaction. Both check first that the gallery still
holds this embedder's templates under this key, because another process may have re-embedded or re-keyed it.
"""

from __future__ import annotations

import io
import os
import shlex
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from facekd.errors import GalleryError
from facekd.gallery import audit, cache
from facekd.gallery.connection import Connection, is_busy
from facekd.gallery.records import NewTemplate, NoGallery, Person, StoredTemplate, Templates, check_contract
from facekd.gallery.schema import current_version
from facekd.gallery.sealing import SALT_BYTES, AesSealer, KeySource, PlainSealer, Sealer

JOURNAL_ROWS = 100_000
"""Changes that a reader may lag behind before it loads everything again."""

VACUUM_BYTES = 32 * 2**20
"""Galleries up to this size (13 thousand templates) are rewritten after each removal, in a fraction of a second. That
keeps other writers out meanwhile, so larger ones are rewritten by ``facekd gallery check`` in a quiet hour."""

BATCH = 4096
PEOPLE = "SELECT p.name, count(t.id), p.created, p.id FROM people p LEFT JOIN templates t ON t.person = p.id"


class Store:
    """The tables of one gallery (see :class:`facekd.gallery.backend.TemplateStore`). Open with :meth:`open`.

    Attributes:
        contract: id of the embedder whose templates these are.
        dimension: length of a template.
        sealer: how records lie on disk.
    """

    schema = current_version()
    not_promised: tuple[str, ...] = ()

    def __init__(self, connection: Connection, key: KeySource | None) -> None:
        self._connection = connection
        self._key = key
        self._salt: bytes | None = None
        self.sealer: Sealer = PlainSealer()
        self.contract = ""
        self.dimension = 0

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        contract: str | None,
        dimension: int,
        create: bool,
        key: KeySource | None,
        timeout_s: float,
    ) -> Store:
        """Open a gallery's file, making it for ``contract`` where there is none and ``create`` allows.

        Raises:
            GalleryError: no such gallery, damaged, locked, made with another model, or the key is wrong or missing.
        """
        connection = Connection(path, create=create and contract is not None, timeout_s=timeout_s)
        store = cls(connection, key)
        try:
            with connection.reading():
                known = store.meta("contract") is not None
            if not known:
                with connection.writing():
                    store._begin(contract, dimension)
            with connection.reading():
                store.contract = store._text("contract")
                store.dimension = int(store._text("dimension"))
                if contract is not None:
                    check_contract(path, store.contract, contract)
                if contract is not None and store.dimension != dimension:
                    raise GalleryError(
                        f"gallery {path} holds {store.dimension}-d templates, the embedder gives {dimension}-d"
                    )
                store._unlock()
        except BaseException:
            connection.close()
            raise
        return store

    def _begin(self, contract: str | None, dimension: int) -> None:
        if self.meta("contract") is not None:  # another process was faster
            return
        if contract is None:
            raise NoGallery(f"the gallery at {self.path} is empty: enrol somebody first, or check the path")
        self.set_meta("contract", contract)
        self.set_meta("dimension", str(dimension))
        self.set_meta("gallery", uuid.uuid4().hex)
        if self._key is not None:
            self.seal_under(self._key)

    @property
    def path(self) -> Path:
        """The gallery's file."""
        return self._connection.path

    @property
    def location(self) -> str:
        """The gallery's file, as text."""
        return str(self.path)

    @property
    def encrypted(self) -> bool:
        """Whether records are sealed."""
        return self.sealer.name != "none"

    @property
    def connection(self) -> Connection:
        """For what is no part of a change: backup, integrity checks, erasing."""
        return self._connection

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One change; see :meth:`Connection.writing`."""
        with self._connection.writing():
            self._guard()
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One view; see :meth:`Connection.reading`."""
        with self._connection.reading():
            self._guard()
            yield

    def _guard(self) -> None:
        check_contract(self.path, self._text("contract"), self.contract)
        if self.meta("key_salt") != self._salt:
            self._unlock()

    def _unlock(self) -> None:
        self._salt = self.meta("key_salt")
        if self._salt is None and self._key is not None:
            raise GalleryError(
                f"gallery {self.path} is not encrypted although a key was named: encrypt it with "
                "`facekd gallery rotate-key`, or leave the key out"
            )
        if self._salt is None:
            self.sealer = PlainSealer()
            return
        if self._key is None:
            raise GalleryError(
                f"gallery {self.path} is encrypted: name its key (--key-file, or the variable FACEKD_GALLERY_KEY)"
            )
        sealer = AesSealer(self._key(), self._salt, self._text("gallery"))
        if sealer.key_check != self.meta("key_check"):
            raise GalleryError(f"the key does not open gallery {self.path}: use the key it was last sealed with")
        self.sealer = sealer

    # -- meta ---------------------------------------------------------------------------------------------------------

    def meta(self, key: str) -> bytes | None:
        """One value of the gallery's own description, or None."""
        row = self._run("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def set_meta(self, key: str, value: str | bytes) -> None:
        """Set one value of the gallery's own description."""
        data = value.encode() if isinstance(value, str) else value
        self._run("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, data))

    def identity(self) -> str:
        """What tells this gallery from every other."""
        return self._text("gallery")

    def _text(self, key: str) -> str:
        value = self.meta(key)
        if value is None:
            raise GalleryError(f"gallery {self.path} lacks its {key}: restore a backup with `facekd gallery restore`")
        return value.decode()

    # -- people -------------------------------------------------------------------------------------------------------

    def people(self) -> list[Person]:
        """Everybody, by name."""
        return [Person(*row) for row in self._run(f"{PEOPLE} GROUP BY p.id ORDER BY p.name")]

    def person(self, name: str) -> Person | None:
        """The person of that name."""
        row = self._run(f"{PEOPLE} WHERE p.name = ? GROUP BY p.id", (name,)).fetchone()
        return None if row is None else Person(*row)

    def names(self, numbers: Iterable[int]) -> dict[int, str]:
        """The names of people by number."""
        return dict(self._rows("SELECT id, name FROM people WHERE id IN", list(numbers)))

    def add_person(self, name: str, now: str) -> int:
        """Add somebody without templates; returns the person's number."""
        return int(self._run("INSERT INTO people (name, created) VALUES (?, ?)", (name, now)).lastrowid or 0)

    def rename(self, number: int, name: str) -> None:
        """Give a person another name."""
        self._run("UPDATE people SET name = ? WHERE id = ?", (name, number))

    def remove_person(self, number: int) -> int:
        """Delete a person with every template; returns how many those were."""
        ids = [row[0] for row in self._run("SELECT id FROM templates WHERE person = ?", (number,))]
        self.remove_templates(ids)
        self._run("DELETE FROM people WHERE id = ?", (number,))
        return len(ids)

    # -- templates ----------------------------------------------------------------------------------------------------

    def add_templates(self, number: int, templates: Sequence[NewTemplate], now: str) -> list[int]:
        """Add templates to a person; returns their ids, which rise and are never used twice."""
        row = self._run("SELECT seq FROM sqlite_sequence WHERE name = 'templates'").fetchone()
        first = 1 + (int(row[0]) if row else 0)
        ids = list(range(first, first + len(templates)))
        for identifier, template in zip(ids, templates, strict=True):
            sealed = self.sealer.seal(template.embedding.astype("<f4").tobytes(), _place(identifier, number))
            self._run(
                "INSERT INTO templates VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    identifier,
                    number,
                    sealed,
                    template.quality,
                    template.mask,
                    template.created or now,
                    template.photographs,
                ),
            )
            if template.crop is not None:
                crop = self.sealer.seal(_png(template.crop), f"crops/{identifier}")
                self._run("INSERT INTO crops VALUES (?, ?)", (identifier, crop))
        self._note("add", ids)
        return ids

    def remove_templates(self, ids: Sequence[int]) -> None:
        """Delete templates and their crops."""
        rows = [(identifier,) for identifier in ids]
        self._connection.sqlite.executemany("DELETE FROM crops WHERE template = ?", rows)
        self._connection.sqlite.executemany("DELETE FROM templates WHERE id = ?", rows)
        self._note("remove", ids)

    def templates(self, after: int = 0) -> Iterator[tuple[npt.NDArray[np.int64], Templates]]:
        """Every template with an id above ``after``, in batches of ids (N,) and embeddings (N, D)."""
        cursor = self._run("SELECT id, person, template FROM templates WHERE id > ? ORDER BY id", (after,))
        while rows := cursor.fetchmany(BATCH):
            yield np.array([row[0] for row in rows], np.int64), self._unseal(rows)

    def embeddings(self, ids: Sequence[int]) -> dict[int, Templates]:
        """The embeddings of some templates by id; ids that are gone are left out."""
        rows = self._rows("SELECT id, person, template FROM templates WHERE id IN", ids)
        return dict(zip((row[0] for row in rows), self._unseal(rows), strict=True))

    def owners(self, ids: Sequence[int]) -> dict[int, int]:
        """The person numbers of some templates by id."""
        return dict(self._rows("SELECT id, person FROM templates WHERE id IN", ids))

    def templates_of(self, number: int) -> list[StoredTemplate]:
        """Every template of one person, oldest first."""
        columns = "id, person, template, quality, mask, created, photographs"
        rows = self._run(f"SELECT {columns} FROM templates WHERE person = ? ORDER BY id", (number,)).fetchall()
        embeddings = self._unseal(rows)
        return [StoredTemplate(row[0], row[1], embeddings[n], *row[3:]) for n, row in enumerate(rows)]

    def readable_templates_of(self, number: int) -> tuple[list[StoredTemplate], list[int]]:
        """A person's templates that open, oldest first, and the ids of those that do not."""
        columns = "id, person, template, quality, mask, created, photographs"
        rows = self._run(f"SELECT {columns} FROM templates WHERE person = ? ORDER BY id", (number,)).fetchall()
        readable, damaged = [], []
        for row in rows:
            try:
                readable.append(StoredTemplate(row[0], row[1], self._unseal([row])[0], *row[3:]))
            except GalleryError:
                damaged.append(row[0])
        return readable, damaged

    def count_templates(self) -> int:
        """How many templates there are."""
        return int(self._run("SELECT count(*) FROM templates").fetchone()[0])

    def count_further_photographs(self) -> int:
        """How many photographs the templates stand for beyond one each."""
        row = self._run("SELECT coalesce(sum(photographs - 1), 0) FROM templates WHERE photographs > 1").fetchone()
        return int(row[0])

    def owners_of_fused(self) -> list[int]:
        """The numbers of people with a template of several photographs."""
        return [row[0] for row in self._run("SELECT DISTINCT person FROM templates WHERE photographs > 1")]

    def all_owners(self) -> list[tuple[int, int]]:
        """Every template's id and person number, by id."""
        return self._run("SELECT id, person FROM templates ORDER BY id").fetchall()

    def count_lacking_crops(self) -> int:
        """How many templates were stored without their crop."""
        return int(
            self._run("SELECT count(*) FROM templates WHERE id NOT IN (SELECT template FROM crops)").fetchone()[0]
        )

    def crop(self, identifier: int) -> npt.NDArray[np.uint8] | None:
        """The kept crop of a template, or None where none was kept."""
        row = self._run("SELECT crop FROM crops WHERE template = ?", (identifier,)).fetchone()
        if row is None:
            return None
        with Image.open(io.BytesIO(self.sealer.unseal(row[0], f"crops/{identifier}"))) as picture:
            return np.array(picture.convert("RGB"))

    def replace_embedding(self, identifier: int, number: int, embedding: Templates) -> None:
        """Put another embedding in a template's place (after a model upgrade)."""
        sealed = self.sealer.seal(embedding.astype("<f4").tobytes(), _place(identifier, number))
        self._run("UPDATE templates SET template = ? WHERE id = ?", (sealed, identifier))

    def _rows(self, select: str, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        """Rows by id, in portions: a statement takes at most 32,766 values."""
        rows = []
        for start in range(0, len(ids), BATCH):
            portion = ids[start : start + BATCH]
            rows.extend(self._run(f"{select} ({','.join('?' * len(portion))})", portion).fetchall())
        return rows

    def _unseal(self, rows: Sequence[tuple[Any, ...]]) -> Templates:
        data = b"".join(self._open(row[0], row[1], bytes(row[2])) for row in rows)
        if len(data) != 4 * self.dimension * len(rows):
            raise GalleryError(f"gallery {self.path} holds a template of a wrong length: run `facekd gallery check`")
        return np.frombuffer(data, "<f4").reshape(len(rows), self.dimension).astype(np.float32, copy=False)

    def _open(self, identifier: int, number: int, record: bytes) -> bytes:
        try:
            return self.sealer.unseal(record, _place(identifier, number))
        except GalleryError as error:
            name = self.names([number]).get(number)
            if name is None:
                raise
            raise GalleryError(
                f"{error}, or remove it with `facekd people remove {shlex.quote(name)} --template {identifier}` and "
                f"enrol {name!r} again"
            ) from error

    # -- journal: how other processes learn what changed --------------------------------------------------------------

    def journal_end(self) -> int:
        """The number of the latest change."""
        row = self._run("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").fetchone()
        return int(row[0]) if row else 0

    def journal_since(self, sequence: int) -> list[tuple[str, int]] | None:
        """The changes after ``sequence`` as (change, template id), or None where the journal no longer reaches back."""
        end = self.journal_end()
        rows = self._run(
            "SELECT change, template FROM journal WHERE sequence > ? ORDER BY sequence", (sequence,)
        ).fetchall()
        if len(rows) != end - sequence or any(change == "reload" for change, _ in rows):
            return None
        return rows

    def skip_journal_to(self, sequence: int) -> None:
        """Number the next change above ``sequence`` as well as above the latest one."""
        sequence = max(sequence, self.journal_end())
        self._run("DELETE FROM journal")
        changed = self._run("UPDATE sqlite_sequence SET seq = ? WHERE name = 'journal'", (sequence,)).rowcount
        if not changed:
            self._run("INSERT INTO sqlite_sequence (name, seq) VALUES ('journal', ?)", (sequence,))

    def note_reload(self) -> None:
        """Tell every process to load all templates again."""
        self._note("reload", [0])

    def _note(self, change: str, ids: Sequence[int]) -> None:
        if change == "reload":
            cache.drop(self.path)
        rows = [(change, identifier) for identifier in ids]
        self._connection.sqlite.executemany("INSERT INTO journal (change, template) VALUES (?, ?)", rows)
        self._run("DELETE FROM journal WHERE sequence <= ?", (self.journal_end() - JOURNAL_ROWS,))

    # -- keys ---------------------------------------------------------------------------------------------------------

    def seal_under(self, key: KeySource) -> None:
        """Seal every record anew under a key and a fresh salt, inside a change."""
        cache.drop(self.path)
        old = self.sealer
        salt = os.urandom(SALT_BYTES)
        sealer = AesSealer(key(), salt, self._text("gallery"))
        last = 0
        while rows := self._run(
            "SELECT id, person, template FROM templates WHERE id > ? ORDER BY id LIMIT ?", (last, BATCH)
        ).fetchall():
            for identifier, number, record in rows:
                place = _place(identifier, number)
                resealed = sealer.seal(old.unseal(record, place), place)
                self._run("UPDATE templates SET template = ? WHERE id = ?", (resealed, identifier))
            last = rows[-1][0]
        for (identifier,) in self._run("SELECT template FROM crops").fetchall():
            place = f"crops/{identifier}"
            (record,) = self._run("SELECT crop FROM crops WHERE template = ?", (identifier,)).fetchone()
            self._run(
                "UPDATE crops SET crop = ? WHERE template = ?",
                (sealer.seal(old.unseal(record, place), place), identifier),
            )
        self.set_meta("key_salt", salt)
        self.set_meta("key_check", sealer.key_check)

    def use_key(self, key: KeySource) -> None:
        """Go on with another key, after :meth:`seal_under` was committed."""
        self._key = key

    # -- care ---------------------------------------------------------------------------------------------------------

    def log(self, now: str, action: str, detail: dict[str, object]) -> None:
        """Note a change in the audit log, inside it."""
        audit.append(self, now, action, detail)

    def erase_leftovers(self, *, whole: bool = False) -> bool:
        """Leave no trace of what was removed; see :class:`~facekd.gallery.records.Removal` for what False means.

        Args:
            whole: rewrite a large file, too.
        """
        cached = self._erase_from_cache()
        vacuum = whole or self._connection.status().st_size <= VACUUM_BYTES
        return self._connection.erase_leftovers(vacuum=vacuum) and cached

    def _erase_from_cache(self) -> bool:
        """Overwrite removed templates' codes in the index on disk; False where another process keeps us from it."""
        if not cache.exists(self.path):
            return True
        try:
            with self.writing():
                erased = cache.erased_up_to(self.path, self.identity())
                changes = None if erased is None else self.journal_since(erased)
                if changes is None:  # of another gallery, or too long ago, or everything was made anew since
                    cache.drop(self.path)
                else:
                    gone = [identifier for change, identifier in changes if change == "remove"]
                    cache.erase(self.path, self.identity(), gone, self.journal_end(), self.sealer)
        except OSError:
            return False
        except GalleryError as error:
            if not is_busy(error):
                raise
            return False
        return True

    def faults(self, audit_head: str | None) -> list[str]:
        """What is wrong with the file, its crops and its audit log."""
        with self.reading():
            found = [f"SQLite: {row[0]}" for row in self._run("PRAGMA integrity_check(10)") if row[0] != "ok"]
            found += [f"a row of {row[0]} has no owner" for row in self._run("PRAGMA foreign_key_check")]
            for (identifier,) in self._run("SELECT template FROM crops").fetchall():
                try:
                    self.crop(identifier)
                except GalleryError as error:
                    found.append(f"crop of template {identifier}: {error}")
            if problem := audit.verify(self, audit_head).problem:
                found.append(problem)
        return found

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _run(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        return self._connection.sqlite.execute(statement, values)


def _place(identifier: int, number: int) -> str:
    return f"templates/{identifier}/{number}"


def _png(crop: npt.NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(crop)).save(target, "PNG")
    return target.getvalue()
