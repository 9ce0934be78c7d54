"""From photographs to templates: one person's photographs, or a folder with one folder a person."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from facekd.errors import ConfigError, EnrolmentRefused, ImageError
from facekd.gallery.admission import Warned
from facekd.gallery.arguments import photographs_of
from facekd.gallery.gallery import Gallery
from facekd.gallery.policy import WARNINGS, EnrolmentPolicy, FaceLike, refusal
from facekd.gallery.records import check_name
from facekd.images import ImageSource, list_images

Which = int | Literal["largest"] | None


class Pipeline(Protocol):
    """What enrolment asks of :class:`facekd.pipeline.FacePipeline`."""

    def analyze(self, image: ImageSource) -> Sequence[FaceLike]:
        """All faces of a photograph."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A photograph that was enrolled.

    Attributes:
        path: as given; ``photograph 1`` and so on for what has no path.
        quality: 0..1.
        warnings: what is worth telling about it.
        id: of its template; None where it is only part of a template of several photographs.
    """

    path: str
    quality: float
    warnings: tuple[Warned, ...] = ()
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A photograph that was not enrolled: the reason as a stable code, and in words."""

    path: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class EnrolmentReport:
    """What became of one person's photographs."""

    person: str
    enrolled: tuple[Enrolled, ...]
    refused: tuple[Refused, ...]

    @property
    def exit_code(self) -> int:
        """5 when nothing was enrolled, 3 when a picture was unreadable or without a face, else 0.

        A photograph that was there already counts as enrolled: who enrols the same folder every night is told of what
        is wrong with it, not that it was done.
        """
        reasons = {refused.reason for refused in self.refused}
        if not self.enrolled and "already-enrolled" not in reasons:
            return EnrolmentRefused.exit_code
        return ImageError.exit_code if reasons & {"unreadable", "no-face"} else 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON form of ``facekd enroll``."""
        return {
            "person": self.person,
            "enrolled": [
                {
                    "path": photo.path,
                    "id": photo.id,
                    "quality": photo.quality,
                    "warnings": [_warning(told) for told in photo.warnings],
                }
                for photo in self.enrolled
            ],
            "refused": [
                {"path": photo.path, "reason": photo.reason, "message": photo.message} for photo in self.refused
            ],
        }


def enrol_photographs(
    gallery: Gallery,
    person: str,
    photographs: Sequence[ImageSource] | ImageSource,
    pipeline: Pipeline,
    *,
    which: Which = None,
    policy: EnrolmentPolicy | None = None,
) -> EnrolmentReport:
    """Enrol one person from several photographs, in one transaction.

    Args:
        gallery: where to.
        person: the name; somebody new is added, somebody known gets more templates.
        photographs: anything that :func:`facekd.images.load_image` takes, in a list, or one by itself.
        pipeline: finds and embeds the faces; its embedder must be the gallery's.
        which: in photographs of several people, the face that is meant: ``largest``, or its place from the left.
        policy: instead of the gallery's own.

    Returns:
        Each photograph among the enrolled or among the refused with the reason.

    Raises:
        ConfigError: the name is not valid, or there is no photograph.
    """
    policy = policy or gallery.policy
    name = gallery.name_for(person)
    photographs = photographs_of(photographs)
    if not photographs:
        raise ConfigError(f"there is no photograph of {name!r} to enrol: name at least one")
    labels = [_label(source, position) for position, source in enumerate(photographs)]
    refused: dict[int, EnrolmentRefused] = {}
    faces: dict[int, FaceLike] = {}
    for position, photograph in enumerate(photographs):
        try:
            faces[position] = policy.choose(pipeline.analyze(photograph), which)
        except ImageError as error:
            refused[position] = EnrolmentRefused(str(error), "unreadable")
        except ConfigError as error:  # the photograph has no such face as `which` asks for
            refused[position] = EnrolmentRefused(str(error), "no-face")
        except EnrolmentRefused as error:
            refused[position] = error
    positions = list(faces)
    done = gallery.enrol(name, [faces[position] for position in positions], policy=policy)
    refused.update({positions[place]: error for place, error in done.refused})
    enrolled = [
        Enrolled(
            labels[positions[place]],
            float(faces[positions[place]].quality.score),
            tuple(told for told in done.warnings if told.position == place),
            identifier,
        )
        for place, identifier in zip(done.enrolled, done.ids, strict=True)
    ]
    turned_down = [Refused(labels[place], error.reason, str(error)) for place, error in sorted(refused.items())]
    return EnrolmentReport(name, tuple(enrolled), tuple(turned_down))


def people_of_folder(folder: str | os.PathLike[str]) -> Iterator[tuple[str, list[Path]]]:
    """A folder of people's folders: each one's name and photographs, by name; hidden ones hold no people.

    Somebody whose folder holds no picture comes without photographs; see :func:`without_photographs`.

    Raises:
        ConfigError: it is no folder, or holds no folder with pictures.
        ImageError: a folder cannot be read.
    """
    root = Path(folder)
    if not os.path.isdir(root):
        raise ConfigError(f"{root} is not a folder: name one that holds a folder for each person")
    try:
        folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise ImageError(f"the folder {root} cannot be read: {error.strerror}") from error
    found = [(entry.name, list_images(entry)) for entry in folders]
    if not any(pictures for _, pictures in found):
        raise ConfigError(f"{root} holds no folder with pictures: put each person's photographs into one of their own")
    yield from found


def without_photographs(person: str, folder: Path) -> EnrolmentReport:
    """What is answered for a person whose folder holds no picture.

    Raises:
        ConfigError: the name is not valid.
    """
    return EnrolmentReport(
        check_name(person), (), (Refused(str(folder), "no-photograph", str(refusal("no-photograph"))),)
    )


def explain(told: Warned) -> str:
    """A warning in words."""
    words = WARNINGS.get(told.code, told.code)
    return f"{words} ({told.other!r}, cosine {told.score:.3f})" if told.other is not None else words


def _warning(told: Warned) -> dict[str, Any]:
    return {"code": told.code, "other": told.other, "score": told.score}


def _label(source: ImageSource, position: int) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else f"photograph {position + 1}"
