"""What callers hand to a gallery, checked where it comes in: the mistakes that everybody makes once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from facekd.errors import ConfigError
from facekd.gallery.admission import AnyTemplate
from facekd.gallery.policy import FaceLike
from facekd.gallery.records import NewTemplate

if TYPE_CHECKING:
    from facekd.images import ImageSource

Probe = FaceLike | npt.NDArray[np.float32]
T = TypeVar("T")


def faces_of(faces: Sequence[AnyTemplate]) -> list[AnyTemplate]:
    """Return what is to be enrolled as a list: faces, embeddings (D,) or templates; of an array (N, D) the rows.

    Raises:
        ConfigError: it is one face instead of a list of them, or something else.
    """
    several = _several(faces, "faces")
    for face in several:
        if not isinstance(face, (NewTemplate, np.ndarray)):
            _check_face(face)
    return several


def probes_of(probes: Sequence[Probe]) -> list[Probe]:
    """Return probes as a list: faces, or embeddings (D,); of an array (N, D) the rows.

    Raises:
        ConfigError: it is one face instead of a list of them, or something else.
    """
    several = _several(probes, "probes")
    for probe in several:
        if not isinstance(probe, np.ndarray):
            _check_face(probe)
    return several


def check_numbers(**numbers: float | None) -> None:
    """Check that rates and thresholds are numbers, or None.

    Raises:
        ConfigError: one is text or something else.
    """
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (Real, np.number))):
            raise ConfigError(f"{name} must be a number, got {value!r}")


def photographs_of(photographs: Sequence[ImageSource] | ImageSource) -> list[ImageSource]:
    """Photographs as a list; one by itself is a list of one.

    Raises:
        ConfigError: it is no photograph and no list.
    """
    single = isinstance(photographs, (str, os.PathLike, bytes, Image.Image))
    if single or (isinstance(photographs, np.ndarray) and photographs.ndim < 4):
        return [photographs]  # type: ignore[list-item]
    if not isinstance(photographs, Iterable):
        raise ConfigError(f"photographs must be paths, pictures or arrays in a list, got {_kind(photographs)}")
    return list(photographs)


def _several(given: Iterable[T], name: str) -> list[T]:
    alone = isinstance(given, np.ndarray) and given.ndim < 2
    if alone or isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ConfigError(f"{name} must be faces or embeddings in a list, got {_kind(given)}: write [face] for one")
    return list(given)


def _check_face(face: object) -> None:
    lacking = [name for name in ("embedding", "mask", "quality") if not hasattr(face, name)]
    if lacking:
        raise ConfigError(
            f"wanted a face from FacePipeline.analyze, or an embedding (D,), got {_kind(face)} without "
            f"{', '.join(lacking)}"
        )


def _kind(value: object) -> str:
    shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
    return f"{type(value).__name__}{shape}"
