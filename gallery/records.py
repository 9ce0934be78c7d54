"""The values that go into a gallery and come out of it, and the checks at its boundary."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from facekd.errors import ConfigError, GalleryError
from facekd.gallery.names import has_visible, hidden_character

Templates = npt.NDArray[np.float32]

LONGEST_NAME = 200
UNIT_TOLERANCE = 1e-3
"""How far a template's length may lie from one: float32 sums over 512 terms stay well inside."""


class NoGallery(GalleryError):
    """There is no gallery yet where one was to be opened."""


class UnknownPerson(GalleryError):
    """Nobody of that name is enrolled: an answer ("not found"), not damage."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody enrolled.

    Attributes:
        name: as given at enrolment, in Unicode form NFC, with single spaces.
        templates: how many templates the gallery holds of the person.
        created: UTC time of the first enrolment, ISO 8601.
        number: the person's number in this gallery; never given to anybody else, also after removal.
    """

    name: str
    templates: int
    created: str
    number: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form of ``facekd people list``."""
        return {"person": self.name, "templates": self.templates, "created": self.created, "number": self.number}


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """A template on its way into the gallery.

    Attributes:
        embedding: (D,) float32, unit length.
        quality: 0..1 from :mod:`facekd.recognition.quality`, or None where unknown.
        mask: the mask status at enrolment (``none`` unless the policy lets others in), or None where unknown.
        crop: the aligned crop (112, 112, 3) RGB uint8, only where the owner chose to keep crops.
        created: UTC time of its enrolment, ISO 8601; empty for now.
        photographs: of how many it is the mean (:mod:`facekd.gallery.fusion`).
    """

    embedding: Templates
    quality: float | None = None
    mask: str | None = None
    crop: npt.NDArray[np.uint8] | None = None
    created: str = ""
    photographs: int = 1


@dataclass(frozen=True, slots=True)
class StoredTemplate:
    """A template as the gallery holds it."""

    id: int
    person: int
    embedding: Templates
    quality: float | None
    mask: str | None
    created: str
    photographs: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without the embedding."""
        names = ("id", "created", "quality", "mask", "photographs")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class PersonRecord:
    """What the gallery holds of somebody.

    Attributes:
        person: name and number.
        templates: those that open, oldest first.
        damaged: ids of those that do not.
    """

    person: Person
    templates: tuple[StoredTemplate, ...]
    damaged: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form of ``facekd people show``."""
        templates = [template.to_dict() for template in self.templates]
        return {**self.person.to_dict(), "templates": templates, "damaged": list(self.damaged)}


@dataclass(frozen=True, slots=True)
class Removal:
    """What a removal did.

    Attributes:
        person: the name that is gone.
        templates: how many templates went with it.
        erased: True when no file of the gallery holds their bytes any more. False while another process is reading
            an older state or writing, and in a gallery too large to be rewritten each time: the records themselves
            are overwritten, and ``facekd gallery check`` finishes the job. Always False in Milvus, which marks rows as
            deleted and drops their bytes when it compacts.
        fused: how many templates of several photographs went as well, because they may have held what was removed and
            could not be made anew without it.
    """

    person: str
    templates: int
    erased: bool
    fused: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """The outcome of a gallery check; healthy when ``problems`` is empty.

    Attributes:
        people, templates, contract, schema, encrypted: what the gallery is.
        problems: what is wrong, in words.
        erased: as in :class:`Removal`; being read by somebody else is no fault of a gallery.
    """

    people: int
    templates: int
    contract: str
    schema: int
    encrypted: bool
    problems: tuple[str, ...] = field(default=())
    erased: bool = True


def check_contract(location: str | os.PathLike[str], stored: str, wanted: str) -> None:
    """Refuse to compare templates of two models."""
    if stored != wanted:
        raise GalleryError(
            f"gallery {location} holds templates of embedder {stored}, this program uses embedder {wanted}: templates "
            "of two models cannot be compared. Use the model the gallery was made with, run `facekd gallery reembed` "
            "where crops were kept, or enrol the people anew into another gallery"
        )


def check_name(name: str) -> str:
    """Return the name of somebody new in the one form in which it is stored.

    Args:
        name: 1 to 200 characters after trimming, without control characters and such as cannot be seen
            (:mod:`facekd.gallery.names`); ``é`` as one character or as two is the same name (Unicode NFC), and
            all white space is a single space.

    Raises:
        ConfigError: it is no text, empty, too long, or holds what it must not.
    """
    given = spellings(name)[0]
    if (hidden := hidden_character(given)) is not None:
        code = f"U+{ord(hidden):04X}"
        raise ConfigError(
            "a person's name must not hold characters that cannot be seen, or that break or turn the line, got "
            f"{given.replace(hidden, f'<{code}>')!r} with {code} {unicodedata.name(hidden, '')}: leave it out"
        )
    tidy = " ".join(given.split())
    if not has_visible(tidy):
        raise ConfigError(f"a person's name must have something to see (got {name!r})")
    return tidy


def spellings(name: str) -> tuple[str, ...]:
    """Return how somebody of that name may be stored: by an earlier facekd, with white space as given, or as now.

    Raises:
        ConfigError: what cannot be stored at all.
    """
    if not isinstance(name, str):
        raise ConfigError(f"a person's name must be text, got {name!r}")
    given = unicodedata.normalize("NFC", name).strip()
    if not given:
        raise ConfigError(f"a person's name must not be empty (got {name!r})")
    if len(given) > LONGEST_NAME:
        raise ConfigError(f"a person's name may have {LONGEST_NAME} characters, this one has {len(given)}: shorten it")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in given):
        raise ConfigError(f"a person's name must not hold control characters (got {name!r})")
    return tuple(dict.fromkeys((given, " ".join(given.split()))))


def check_template(embedding: npt.ArrayLike, dimension: int) -> Templates:
    """Return one embedding as (dimension,) float32, refusing what is none, several at once included.

    Raises:
        ConfigError: as for :func:`check_templates`.
    """
    if np.ndim(embedding) != 1:
        raise ConfigError(f"an embedding must have shape ({dimension},), got {np.shape(embedding)}: one for each face")
    (template,) = check_templates(embedding, dimension)
    return np.asarray(template, np.float32)


def check_templates(embeddings: npt.ArrayLike, dimension: int) -> Templates:
    """Return embeddings as (N, dimension) float32, refusing what is no embedding.

    Args:
        embeddings: (N, dimension), or (dimension,) for one.
        dimension: what the gallery holds.

    Raises:
        ConfigError: no numbers, wrong shape, not finite, or not of unit length.
    """
    given = np.asarray(embeddings)
    if given.dtype.kind not in "fiu":  # NumPy would turn text into numbers, and cut complex ones to their real part
        raise ConfigError(f"embeddings must be of real numbers, got {given.dtype}")
    templates = np.ascontiguousarray(np.atleast_2d(given.astype(np.float32, copy=False)))
    if templates.ndim != 2 or templates.shape[1] != dimension:
        raise ConfigError(f"embeddings must have shape (N, {dimension}), got {np.shape(embeddings)}")
    lengths = np.linalg.norm(templates.astype(np.float64), axis=1)
    wrong = ~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE)  # written so that NaN is wrong too
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ConfigError(f"embedding {row} has length {lengths[row]:.6g}, wanted 1: divide it by its length first")
    return templates
