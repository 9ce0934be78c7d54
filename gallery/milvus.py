"""A gallery in Milvus: the store of :mod:`facekd.gallery.backend`, through pymilvus.

Milvus knows no transactions. What a change does is collected and sent when its block ends without an error, so that a
refusal changes nothing; in an order that leaves nothing harmful where it is cut short: somebody without templates, or
an import that goes on when it is repeated. Rows carry numbers drawn here and are written with ``upsert``, so that a
request that pymilvus repeats after a network error does not count twice.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from facekd.errors import ConfigError, GalleryError
from facekd.gallery import milvus_lite, milvus_tables
from facekd.gallery.location import MilvusAddress
from facekd.gallery.milvus_errors import explained, missing
from facekd.gallery.milvus_promises import not_promised
from facekd.gallery.records import NewTemplate, Person, StoredTemplate, Templates
from facekd.gallery.sealing import KeySource

TOKEN_VARIABLE = "FACEKD_MILVUS_TOKEN"
CERTIFICATE_VARIABLE = "FACEKD_MILVUS_CA"

LARGEST_ANSWER = 16_384
"""Rows that Milvus gives at most to one question."""

SHORTLIST = 64
"""Templates taken for each probe where the index is not exact, at least; four times as many as are asked for."""

ROWS_A_REQUEST = 2048
"""Templates sent at once, 4 MiB of them; a person's are never parted, so it may become more."""

PATIENCE_S = 60.0
"""How long a server may take to confirm a change, at least: who stops waiting does not know what became of it."""

LITE_FLUSH_ROWS = 500
"""milvus-lite searches rows that it has not written out yet some thirty times slower than others."""

_EPOCH_MS = 1_577_836_800_000  # 2020-01-01


@dataclass
class _Change:
    """What one change has to send."""

    removed_templates: list[int] = field(default_factory=list)
    removed_people: list[int] = field(default_factory=list)
    people: list[dict[str, Any]] = field(default_factory=list)
    templates: list[list[dict[str, Any]]] = field(default_factory=list)


class MilvusStore:
    """People and templates in two collections (see :class:`facekd.gallery.backend.TemplateStore`).

    Attributes:
        address: where it lies.
        contract: id of the embedder whose templates these are.
        dimension: length of a template.
        not_promised: what a file's gallery promises and this one does not.
    """

    schema = milvus_tables.SCHEMA
    encrypted = False

    def __init__(
        self,
        address: MilvusAddress,
        client: Any,
        lite: milvus_lite.LiteServer | None,
        *,
        contract: str,
        dimension: int,
        exact: bool,
        timeout_s: float,
    ) -> None:
        self.address = address
        self._client: Any = client
        self._lite = lite
        self._process = os.getpid()
        self._lock = threading.RLock() if lite is None else lite.lock
        self._change: _Change | None = None
        self._last_number = 0
        self._unflushed = 0
        self._people = milvus_tables.people_collection(address)
        self._templates = milvus_tables.template_collection(address, contract)
        self._exact = exact
        # milvus-lite computes in this process, where waiting less long saves nothing.
        self._answer_s = None if lite else timeout_s
        self._change_s = None if lite else max(timeout_s, PATIENCE_S)
        self.contract = contract
        self.dimension = dimension
        self.not_promised = not_promised(address, logs_in=bool(os.environ.get(TOKEN_VARIABLE)))

    @classmethod
    def open(
        cls,
        address: MilvusAddress,
        *,
        contract: str | None,
        dimension: int,
        create: bool,
        key: KeySource | None,
        timeout_s: float,
    ) -> MilvusStore:
        """Reach the server and open a gallery there; arguments as for :meth:`Gallery.open`.

        Raises:
            GalleryError: no such gallery, not reached, of another model, or a key was named.
        """
        if key is not None:
            raise GalleryError(
                f"gallery {address} cannot be encrypted: Milvus compares plain vectors. Leave the key out "
                "(--key-file, FACEKD_GALLERY_KEY), or keep the gallery in a file"
            )
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise missing("pymilvus", error) from error
        # Its errors reach the caller as exceptions; it would print each of them with a traceback as well.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        lite = None
        if address.folder is not None:
            lite = milvus_lite.start(address.folder, create=create and contract is not None)
        options: dict[str, Any] = {"uri": lite.uri if lite else address.uri, "db_name": address.database}
        if lite is not None:
            # pymilvus asks every ten seconds whether the server lives, and milvus-lite's hangs up on who asks so often.
            options["grpc_options"] = {"grpc.keepalive_time_ms": 2**31 - 1}
        else:
            options["token"] = os.environ.get(TOKEN_VARIABLE, "")
            if certificate := os.environ.get(CERTIFICATE_VARIABLE):
                options["server_pem_path"] = certificate
        client = None
        try:
            with explained(address, "check the address, the token, and that the server runs"):
                # Galleries share nothing, not even a connection: closing one must not close another.
                client = MilvusClient(**options, timeout=timeout_s, dedicated=True)
                stored, length = milvus_tables.prepare(
                    client, address, contract=contract, dimension=dimension, create=create
                )
                exact = milvus_tables.is_exact(client, address, stored)
        except BaseException:
            if client is not None:
                client.close()
            if lite is not None:
                lite.release()
            raise
        return cls(address, client, lite, contract=stored, dimension=length, exact=exact, timeout_s=timeout_s)

    @property
    def location(self) -> str:
        """The gallery's address."""
        return str(self.address)

    @property
    def client(self) -> Any:
        """The connection.

        Raises:
            GalleryError: it was closed, or opened by another process.
        """
        if self._client is None:
            raise GalleryError(f"gallery {self.address} was closed: open it again")
        if os.getpid() != self._process:
            raise GalleryError(f"gallery {self.address} was opened before this process was forked: open it again here")
        return self._client

    # -- views and changes --------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One view. Every question sees the latest state; several questions may see several."""
        turn: AbstractContextManager[object] = nullcontext() if self._lite is None else self._lock
        with turn, explained(self.address, "try again; if that does not help, see that the server is well"):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One change, sent when the block ends without an error."""
        with self._lock:
            if self._change is not None:
                yield
                return
            self._change = change = _Change()
            try:
                with explained(self.address, "nothing was changed"):
                    yield
            finally:
                self._change = None
            with explained(self.address, "the change may be done in part: repeat it"):
                self._send(change)

    def _send(self, change: _Change) -> None:
        if change.removed_templates:
            for ids in _portions(change.removed_templates, LARGEST_ANSWER):
                self.client.delete(self._templates, ids=ids, timeout=self._change_s)
        if change.removed_people:
            self.client.delete(self._people, ids=change.removed_people, timeout=self._change_s)
        for rows in _portions(change.people, ROWS_A_REQUEST):
            self.client.upsert(self._people, rows, timeout=self._change_s)
        waiting: list[dict[str, Any]] = []
        for rows in [*change.templates, []]:
            waiting += rows
            if waiting and (not rows or len(waiting) >= ROWS_A_REQUEST):
                self.client.upsert(self._templates, waiting, timeout=self._change_s)
                self._unflushed += len(waiting)
                waiting = []
        if self._lite is not None and self._unflushed >= LITE_FLUSH_ROWS:
            self.client.flush(self._templates)
            self._unflushed = 0

    @property
    def _pending(self) -> _Change:
        if self._change is None:
            raise GalleryError("a gallery is changed outside a change: this is an error in facekd, please report it")
        return self._change

    # -- people -------------------------------------------------------------------------------------------------------

    def people(self) -> list[Person]:
        """Everybody, by name."""
        counts = Counter(row["person"] for row in self._all(self._templates, "id > 0", ["person"]))
        rows = self._all(self._people, f"number > {milvus_tables.DESCRIPTION}", ["number", "name", "created"])
        people = [Person(row["name"], counts[row["number"]], row["created"], row["number"]) for row in rows]
        return sorted(people, key=lambda person: (person.name, person.number))

    def person(self, name: str) -> Person | None:
        """The person of that name."""
        rows = self._query(self._people, f'key == "{milvus_tables.name_key(name)}"', ["number", "name", "created"])
        if len(rows) > 1:
            raise GalleryError(
                f"{len(rows)} people of gallery {self.address} are named {name!r}, since two processes enrolled at "
                "once: remove both by `facekd people remove` and enrol again"
            )
        if not rows:
            return None
        number = rows[0]["number"]
        return Person(rows[0]["name"], self._count(f"person == {number}"), rows[0]["created"], number)

    def names(self, numbers: Iterable[int]) -> dict[int, str]:
        """The names of people by number; who is gone is left out."""
        found: dict[int, str] = {}
        for portion in _portions(sorted(numbers), 1000):
            rows = self._query(self._people, f"number in {portion}", ["number", "name"])
            found.update((row["number"], row["name"]) for row in rows)
        return found

    def add_person(self, name: str, now: str) -> int:
        """Add somebody without templates; returns the person's number."""
        (number,) = self._numbers(1)
        self._put_person(number, name, now)
        return number

    def rename(self, number: int, name: str) -> None:
        """Give a person another name."""
        (row,) = self._query(self._people, f"number == {number}", ["created"])
        self._put_person(number, name, row["created"])

    def remove_person(self, number: int) -> int:
        """Delete a person with every template; returns how many those were."""
        ids = [row["id"] for row in self._query(self._templates, f"person == {number}", ["id"])]
        self._pending.removed_templates.extend(ids)
        self._pending.removed_people.append(number)
        return len(ids)

    def _put_person(self, number: int, name: str, created: str) -> None:
        row = {"number": number, "name": name, "key": milvus_tables.name_key(name)}
        self._pending.people.append({**row, "created": milvus_tables.fitting(created), "unused": [0.0, 0.0]})

    # -- templates ----------------------------------------------------------------------------------------------------

    def add_templates(self, number: int, templates: Sequence[NewTemplate], now: str) -> list[int]:
        """Add templates to a person; returns their ids, which rise.

        Raises:
            ConfigError: crops are to be kept, which they are not in Milvus.
        """
        if any(template.crop is not None for template in templates):
            raise ConfigError(f"gallery {self.address} keeps no crops, which only files do: enrol without --keep-crops")
        ids = self._numbers(len(templates))
        rows = [
            {
                "id": identifier,
                "person": number,
                "embedding": template.embedding,
                "quality": template.quality,
                "mask": None if template.mask is None else milvus_tables.fitting(template.mask),
                "created": milvus_tables.fitting(template.created or now),
                "photographs": template.photographs,
            }
            for identifier, template in zip(ids, templates, strict=True)
        ]
        if rows:
            self._pending.templates.append(rows)
        return ids

    def remove_templates(self, ids: Sequence[int]) -> None:
        """Delete templates."""
        self._pending.removed_templates.extend(ids)

    def templates_of(self, number: int) -> list[StoredTemplate]:
        """Every template of one person, oldest first."""
        fields = ["id", "person", "embedding", "quality", "mask", "created", "photographs"]
        rows = sorted(self._query(self._templates, f"person == {number}", fields), key=lambda row: row["id"])
        return [
            StoredTemplate(
                row["id"],
                number,
                _vector(row["embedding"]),
                row["quality"],
                row["mask"],
                row["created"],
                row["photographs"],
            )
            for row in rows
        ]

    def readable_templates_of(self, number: int) -> tuple[list[StoredTemplate], list[int]]:
        """A person's templates, all of which open: Milvus keeps plain vectors."""
        return self.templates_of(number), []

    def count_further_photographs(self) -> int:
        """How many photographs the templates stand for beyond one each."""
        # Milvus counts, but does not add up: one of three photographs is counted among those of more than one, and
        # among those of more than two.
        further, photographs = 0, 1
        while more := self._count(f"photographs > {photographs}"):
            further, photographs = further + more, photographs + 1
        return further

    def count_templates(self) -> int:
        """How many templates there are."""
        return self._count("")

    def nearest(self, embeddings: Templates, count: int) -> list[list[tuple[int, int, Templates]]]:
        """For each probe about ``count`` of the most similar templates: id, person's number and embedding."""
        # Where the index is not exact, more are taken, and the best of them by their full templates.
        limit = count if self._exact else min(LARGEST_ANSWER, max(SHORTLIST, 4 * count))
        parameters = {} if self._exact else {"ef": max(milvus_tables.EF, limit)}
        answers = self.client.search(
            self._templates,
            data=list(embeddings),
            anns_field="embedding",
            limit=limit,
            output_fields=["person", "embedding"],
            search_params={"metric_type": "IP", "params": parameters},
            timeout=self._answer_s,
        )
        return [
            [(hit["id"], hit["entity"]["person"], _vector(hit["entity"]["embedding"])) for hit in hits]
            for hits in answers
        ]

    # -- care ---------------------------------------------------------------------------------------------------------

    def log(self, now: str, action: str, detail: dict[str, object]) -> None:
        """There is no audit log: without transactions its chain would break at the first crash."""

    def erase_leftovers(self, *, whole: bool = False) -> bool:
        """False: Milvus marks rows as deleted, and drops their bytes when it compacts."""
        return False

    def faults(self, audit_head: str | None) -> list[str]:
        """What two processes that changed the gallery at once, or a crash, may have left.

        Raises:
            GalleryError: an audit log's head is to be checked, and there is no audit log.
        """
        if audit_head is not None:
            raise GalleryError(f"gallery {self.address} has no audit log: those of files have one")
        with self.reading():
            people = self.people()
            known = {person.number for person in people}
            lost = sum(row["person"] not in known for row in self._all(self._templates, "id > 0", ["person"]))
        found = [f"{lost} templates belong to nobody"] if lost else []
        names = Counter(person.name for person in people)
        return found + [f"{count} people are named {name!r}" for name, count in names.items() if count > 1]

    def close(self) -> None:
        """Close the connection; milvus-lite stops with the last gallery in its folder."""
        with self._lock:
            client, self._client = self._client, None
            if client is None or os.getpid() != self._process:
                return
            client.close()
            if self._lite is not None:
                self._lite.release()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _query(self, collection: str, where: str, fields: list[str]) -> list[dict[str, Any]]:
        rows = self.client.query(
            collection, filter=where, output_fields=fields, limit=LARGEST_ANSWER, timeout=self._answer_s
        )
        return list(rows) if len(rows) < LARGEST_ANSWER else list(self._all(collection, where, fields))

    def _all(self, collection: str, where: str, fields: list[str]) -> Iterator[dict[str, Any]]:
        rows = self.client.query_iterator(
            collection, batch_size=LARGEST_ANSWER, filter=where, output_fields=fields, timeout=self._answer_s
        )
        try:
            while batch := rows.next():
                yield from batch
        finally:
            rows.close()

    def _count(self, where: str) -> int:
        (answer,) = self.client.query(self._templates, filter=where, output_fields=["count(*)"], timeout=self._answer_s)
        return int(answer["count(*)"])

    def _numbers(self, count: int) -> list[int]:
        """Numbers that rise and that no other process draws: the time in milliseconds, then 22 bits at random."""
        drawn = (time.time_ns() // 1_000_000 - _EPOCH_MS) << 22 | secrets.randbits(22)
        first = max(self._last_number + 1, drawn)
        self._last_number = first + count
        return list(range(first, first + count))


def _vector(values: Sequence[float]) -> Templates:
    return np.asarray(values, np.float32)


def _portions(rows: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])
