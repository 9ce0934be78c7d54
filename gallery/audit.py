"""What was done to a gallery and when, as a chain of hashes.

Each entry's digest is SHA-256 over the digest before it and the entry itself, so an entry that was changed, taken out
or put in breaks the chain from there on. It is written in the same transaction as the change that it records. Entries
hold people's numbers and counts, neither names nor anything biometric: they may outlive a person's removal.

Somebody who can write the file can also write a new chain from start to end, or cut off its tail. Against that, keep
the latest digest elsewhere now and then, and give it to the check.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facekd.gallery.store import Store

GENESIS = "0" * 64
"""Stands before the first entry."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change: its number, UTC time, action, detail (people's numbers, counts) and digest (hexadecimal)."""

    sequence: int
    time: str
    action: str
    detail: dict[str, Any]
    digest: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The outcome of a check.

    Attributes:
        entries: how many entries were checked.
        head: the latest digest; keep it elsewhere to notice a chain that was cut or written anew.
        problem: what is wrong, or None.
    """

    entries: int
    head: str
    problem: str | None


def append(store: Store, now: str, action: str, detail: dict[str, Any]) -> None:
    """Record a change, inside its transaction."""
    connection = store.connection.sqlite
    row = connection.execute("SELECT sequence, digest FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
    sequence, previous = (row[0] + 1, row[1]) if row else (1, GENESIS)
    text = json.dumps(detail, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = _digest(previous, sequence, now, action, text)
    connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", (sequence, now, action, text, digest))


def entries(store: Store) -> list[AuditEntry]:
    """The whole log, oldest first."""
    rows = store.connection.sqlite.execute("SELECT sequence, time, action, detail, digest FROM audit ORDER BY sequence")
    return [AuditEntry(row[0], row[1], row[2], json.loads(row[3]), row[4]) for row in rows]


def verify(store: Store, seen: str | None = None) -> AuditReport:
    """Check the chain.

    Args:
        store: the gallery, inside a view.
        seen: a head noted earlier; it must still be part of the chain.
    """
    rows = store.connection.sqlite.execute("SELECT sequence, time, action, detail, digest FROM audit ORDER BY sequence")
    previous = GENESIS
    count = 0
    found = seen is None or seen == GENESIS
    for count, (sequence, time, action, detail, digest) in enumerate(rows, 1):
        if sequence != count:
            return AuditReport(count - 1, previous, f"entry {count} of the audit log is missing")
        if digest != _digest(previous, sequence, time, action, detail):
            return AuditReport(count - 1, previous, f"entry {count} of the audit log was changed")
        previous = digest
        found = found or digest == seen
    problem = None if found else "the audit log no longer holds the head noted earlier: it was cut or written anew"
    return AuditReport(count, previous, problem)


def _digest(previous: str, sequence: int, time: str, action: str, detail: str) -> str:
    # JSON of a list: no two different entries can be written the same way.
    return hashlib.sha256(json.dumps([previous, sequence, time, action, detail]).encode()).hexdigest()
