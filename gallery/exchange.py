"""Export and import in an open format: a zip file that any program can read, without pickles.

Format ``facekd gallery 1``: the zip holds

* ``gallery.json``: ``format``, ``contract``, ``dimension``, ``templates_sha256`` (of ``templates.npy``) and
  ``people``, a list of ``{"name", "created", "templates": [{"row", "quality", "mask", "created"}]}``;
* ``templates.npy``: NumPy's own format, little-endian float32 (N, dimension), unit length, row by row as ``row`` says.

It is not encrypted, whatever the gallery is: templates are biometric data, keep the file accordingly. Crops do not
travel.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facekd.errors import ConfigError, DataError, FacekdError
from facekd.gallery.backend import person_and_name
from facekd.gallery.fusion import planned
from facekd.gallery.records import (
    NewTemplate,
    Person,
    StoredTemplate,
    Templates,
    check_contract,
    check_name,
    check_templates,
)
from facekd.whole_files import whole_file

if TYPE_CHECKING:
    from facekd.gallery.gallery import Gallery

FORMAT: Literal["facekd gallery 1"] = "facekd gallery 1"
MOST_PHOTOGRAPHS = 1000
"""Of one fused template, far more than a policy lets in. Each raises the threshold, and a file may claim anything."""

LARGEST_TABLE = 1 << 30
"""Bytes of gallery.json; ten million templates need less. A zip may claim anything."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TemplateRow(_Strict):
    """One template of an export."""

    row: int = Field(ge=0)
    quality: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    mask: str | None = None
    created: str = ""
    photographs: int = Field(default=1, ge=1, le=MOST_PHOTOGRAPHS)


class PersonRows(_Strict):
    """One person of an export."""

    name: str
    created: str = ""
    templates: list[TemplateRow]


class Table(_Strict):
    """``gallery.json``."""

    format: Literal["facekd gallery 1"]
    contract: str
    dimension: int = Field(gt=0, le=65_536)
    templates_sha256: str
    people: list[PersonRows]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did: people added, people who got more templates, templates added and left out as present."""

    added: tuple[str, ...]
    merged: tuple[str, ...]
    templates: int
    present: int


def export_gallery(gallery: Gallery, path: str | os.PathLike[str]) -> int:
    """Write everybody to ``path``, which appears complete or not at all; returns the number of templates.

    Raises:
        ConfigError: the file exists or cannot be written.
    """
    target = Path(path)
    if target.exists():  # it may be anything, this very gallery included
        raise ConfigError(f"{target} exists: name another file for the export, or move this one away")
    people: list[dict[str, Any]] = []
    rows: list[Templates] = []
    with gallery.store.reading():
        for person in gallery.store.people():
            entries = []
            for stored in gallery.store.templates_of(person.number):
                entry = {"row": len(rows), "quality": stored.quality, "mask": stored.mask, "created": stored.created}
                if stored.photographs > 1:
                    entry["photographs"] = stored.photographs
                entries.append(entry)
                rows.append(stored.embedding)
            people.append({"name": person.name, "created": person.created, "templates": entries})
    array = io.BytesIO()
    np.save(array, np.array(rows, "<f4").reshape(len(rows), gallery.dimension), allow_pickle=False)
    table = {
        "format": FORMAT,
        "contract": gallery.contract,
        "dimension": gallery.dimension,
        "templates_sha256": hashlib.sha256(array.getvalue()).hexdigest(),
        "people": people,
    }
    try:
        with (
            whole_file(target, private=True, durable=True) as part,
            zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            archive.writestr("gallery.json", json.dumps(table, ensure_ascii=False, indent=1))
            archive.writestr("templates.npy", array.getvalue(), zipfile.ZIP_STORED)
    except OSError as error:
        raise ConfigError(f"the export cannot be written to {target}: {error.strerror or error}") from error
    return len(rows)


def import_gallery(gallery: Gallery, path: str | os.PathLike[str], *, merge: bool = False) -> ImportReport:
    """Read an export into a gallery, all of it or nothing.

    Args:
        gallery: where to; its embedder must be the one that made the templates.
        path: an export.
        merge: give people who are enrolled already the templates that they lack; otherwise such a name refuses the
            whole import.

    Raises:
        DataError: the file is no export, or is damaged.
        GalleryError: it was made with another model.
        ConfigError: a name is enrolled already and ``merge`` is False.
    """
    table, templates = read_export(path)
    check_contract(gallery.location, gallery.contract, table.contract)
    store, now = gallery.store, gallery.now()
    entries: dict[str, list[PersonRows]] = {}
    known: dict[str, Person | None] = {}
    with store.writing():
        for entry in table.people:
            person, name = person_and_name(store, entry.name)
            entries.setdefault(name, []).append(entry)
            known[name] = person
        if not merge and (present := [name for name, person in known.items() if person]):
            raise ConfigError(
                f"{present[0]!r} is already enrolled: import with --merge to add templates, or rename first"
            )
        changes: dict[str, tuple[list[int], list[NewTemplate]]] = {}
        count = 0
        for name, rows in entries.items():
            own = store.templates_of(person.number) if (person := known[name]) else []
            fresh = _lacking(rows, templates, own)
            changes[name] = replaced, stored = planned(own, fresh, "none")
            count += sum(any(one is template for template in stored) for one in fresh)
        for name, (replaced, stored) in changes.items():
            person = known[name]
            number = person.number if person else store.add_person(name, entries[name][0].created or now)
            if replaced:
                store.remove_templates(replaced)
            store.add_templates(number, stored, now)
        store.log(now, "import", {"people": len(entries), "templates": count})
        return ImportReport(
            added=tuple(name for name in entries if not known[name]),
            merged=tuple(name for name in entries if known[name]),
            templates=count,
            present=len(templates) - count,
        )


def _lacking(rows: list[PersonRows], templates: Templates, present: list[StoredTemplate]) -> list[NewTemplate]:
    """What one person of an export has and the gallery has not, to the bit: an export holds what a gallery holds."""
    own = [stored.embedding for stored in present]
    fresh = []
    for entry in rows:
        for row in entry.templates:
            embedding = templates[row.row]
            if any(np.array_equal(embedding, other) for other in own):
                continue
            own.append(embedding)
            created = row.created or entry.created
            fresh.append(NewTemplate(embedding, row.quality, row.mask, created=created, photographs=row.photographs))
    return fresh


def read_export(path: str | os.PathLike[str]) -> tuple[Table, Templates]:
    """Read and check an export.

    Raises:
        DataError: what is wrong with it.
    """
    remedy = "export again with `facekd people export`"
    try:
        with zipfile.ZipFile(path) as archive:
            table = Table.model_validate_json(_member(archive, "gallery.json", LARGEST_TABLE))
            rows = sum(len(person.templates) for person in table.people)
            # A template may be named by one person only, so the array is as long as the table says, plus its header.
            content = _member(archive, "templates.npy", rows * table.dimension * 4 + 65_536)
    except OSError as error:
        raise DataError(f"the export {path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is no gallery export ({where}: {first['msg']}); {remedy}") from error
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} is no gallery export, or is damaged ({error}); {remedy}") from error
    if hashlib.sha256(content).hexdigest() != table.templates_sha256:
        raise DataError(f"the templates of export {path} are damaged (SHA-256); {remedy}")
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"the templates of export {path} cannot be read ({error}); {remedy}") from error
    used = [row.row for person in table.people for row in person.templates]
    if array.ndim != 2 or array.dtype != np.dtype("<f4") or array.shape != (rows, table.dimension):
        raise DataError(
            f"export {path} has templates {array.dtype} {array.shape}, wanted ({rows}, {table.dimension}); {remedy}"
        )
    if sorted(used) != list(range(rows)):
        raise DataError(f"export {path} names some template twice or not at all; {remedy}")
    try:
        for person in table.people:
            check_name(person.name)
        checked = check_templates(array, table.dimension) if rows else array.astype(np.float32)
    except FacekdError as error:
        raise DataError(f"export {path}: {error}; {remedy}") from error
    return table, checked


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    with archive.open(name) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{name} is longer than it may be")
    return content
