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
from facekd.gallery.calibration import Calibration
from facekd.gallery.policy import EnrolmentPolicy, FaceLike
from facekd.gallery.records import NewTemplate

if TYPE_CHECKING:
    from facekd.images import ImageSource

Probe = FaceLike | npt.NDArray[np.float32]
T = TypeVar("T")

LONGEST_WAIT_S = 86_400
"""A day; SQLite counts milliseconds in 32 bits."""


def faces_of(faces: Sequence[AnyTemplate] | npt.NDArray[np.float32]) -> list[AnyTemplate]:
    """Return what is to be enrolled as a list: faces, embeddings (D,) or templates; of an array (N, D) the rows.

    Raises:
        ConfigError: it is one face instead of a list of them, or something else.
    """
    several = _several(faces, "faces")
    for face in several:
        if not isinstance(face, (NewTemplate, np.ndarray)):
            _check_face(face)
    return several


def probes_of(probes: Sequence[Probe] | npt.NDArray[np.float32]) -> list[Probe]:
    """Return probes as a list: faces, or embeddings (D,); of an array (N, D) the rows.

    Raises:
        ConfigError: it is one face instead of a list of them, or something else.
    """
    several = _several(probes, "probes")
    for probe in several:
        if not isinstance(probe, np.ndarray):
            _check_face(probe)
    return several


def check_opening(
    location: object,
    contract: object,
    dimension: object,
    calibration: object,
    policy: object,
    timeout_s: object,
    clock: object,
) -> None:
    """Check what :meth:`Gallery.open` is given, before anything is opened or made.

    Raises:
        ConfigError: one is not what it must be.
    """
    if not isinstance(location, (str, os.PathLike)) or not isinstance(os.fspath(location), str):
        raise ConfigError(f"a gallery's location must be a path or an address, got {location!r}")
    if contract is not None and (not isinstance(contract, str) or not contract):
        raise ConfigError(f"contract must be the embedder's contract id (Embedder.contract), got {contract!r}")
    if isinstance(dimension, bool) or not isinstance(dimension, (int, np.integer)) or dimension < 1:
        raise ConfigError(f"dimension must be the length of an embedding, 1 or more, got {dimension!r}")
    if calibration is not None and not isinstance(calibration, Calibration):
        raise ConfigError(
            f"calibration must be a Calibration, got {calibration!r}: read it with Calibration.load(path)"
        )
    if policy is not None and not isinstance(policy, EnrolmentPolicy):
        raise ConfigError(f"policy must be an EnrolmentPolicy, got {policy!r}")
    number = isinstance(timeout_s, (Real, np.number)) and not isinstance(timeout_s, bool)
    if not number or not 0 <= timeout_s <= LONGEST_WAIT_S:  # type: ignore[operator]
        raise ConfigError(f"timeout_s must be 0 to {LONGEST_WAIT_S} seconds, got {timeout_s!r}")
    if not callable(clock):
        raise ConfigError(f"clock must be a function that returns the time, got {clock!r}")


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
    single = isinstance(photographs, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image))
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
