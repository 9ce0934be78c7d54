"""The tables of a gallery, and how older files become newer ones.

A migration is one function and one line in MIGRATIONS; all missing ones run in a single transaction when a gallery is
opened, so a file is of one version or of the next, never between.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

APPLICATION_ID = 0x66616365
"""Marks an SQLite file as ours (``face`` in ASCII), so that another program's database is never taken for a gallery."""

PAGE_SIZE = 16_384
"""Bytes. A 512-d template fills half a page of 4 KiB, and one such row a page wastes the rest; seven fit into this."""

SCHEMA_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE people (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    created TEXT NOT NULL
);
CREATE TABLE templates (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    person INTEGER NOT NULL REFERENCES people (id),
    template BLOB NOT NULL,
    quality REAL,
    mask TEXT,
    created TEXT NOT NULL
);
CREATE INDEX templates_by_person ON templates (person);
CREATE TABLE journal (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    change TEXT NOT NULL CHECK (change IN ('add', 'remove', 'reload')),
    template INTEGER NOT NULL
);
"""

SCHEMA_2 = """
CREATE TABLE crops (
    template INTEGER PRIMARY KEY REFERENCES templates (id),
    crop BLOB NOT NULL
);
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    action TEXT NOT NULL,
    detail TEXT NOT NULL,
    digest TEXT NOT NULL
);
"""

SCHEMA_3 = """
ALTER TABLE templates ADD COLUMN photographs INTEGER NOT NULL DEFAULT 1;
CREATE INDEX fused_templates ON templates (photographs) WHERE photographs > 1;
"""


def _run(script: str) -> Callable[[sqlite3.Connection], None]:
    def migrate(connection: sqlite3.Connection) -> None:
        # executescript would commit the transaction that makes the migration whole.
        for statement in script.split(";"):
            if statement.strip():
                connection.execute(statement)

    return migrate


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_run(SCHEMA_1), _run(SCHEMA_2), _run(SCHEMA_3)]
"""MIGRATIONS[n] makes version n + 1 of version n; version 0 is an empty file."""


def current_version() -> int:
    """The version that this facekd writes."""
    return len(MIGRATIONS)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a gallery to the current version; call it inside a write transaction."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    for step in MIGRATIONS[version:]:
        step(connection)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {current_version()}")
