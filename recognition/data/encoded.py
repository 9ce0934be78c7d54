"""Crops that stay encoded until they are asked for: sets of millions do not fit decoded into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.errors import ImageError
from facekd.images import load_image

CROP = 112


class LazyCrops:
    """Crops (N, 112, 112, 3) uint8 RGB, made when indexed; stands in for the array of them.

    Args:
        one: gives crop ``i`` (112, 112, 3); called from several threads at once.
        count: how many there are.
    """

    def __init__(self, one: Callable[[int], NDArray[np.uint8]], count: int) -> None:
        self._one = one
        self._count = count

    def __len__(self) -> int:
        return self._count

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 112, 112, 3)."""
        return (self._count, CROP, CROP, 3)

    @overload
    def __getitem__(self, index: int | np.integer) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice | NDArray[np.integer] | Sequence[int]) -> NDArray[np.uint8]: ...

    def __getitem__(self, index: int | np.integer | slice | NDArray[np.integer] | Sequence[int]) -> NDArray[np.uint8]:
        """One crop (112, 112, 3) of a number, several (M, 112, 112, 3) of a slice or of numbers.

        Raises:
            IndexError: a number is out of range.
            ImageError: the bytes are no picture.
        """
        if isinstance(index, int | np.integer):
            return self._checked(int(index))
        numbers = range(*index.indices(self._count)) if isinstance(index, slice) else index
        crops = np.empty((len(numbers), CROP, CROP, 3), np.uint8)
        for place, number in enumerate(numbers):
            crops[place] = self._checked(int(number))
        return crops

    def _checked(self, number: int) -> NDArray[np.uint8]:
        if not -self._count <= number < self._count:
            raise IndexError(f"crop {number} of {self._count}")
        return self._one(number % self._count)


class EncodedCrops(LazyCrops):
    """Crops decoded when indexed.

    Args:
        read: gives the encoded bytes of crop ``i``; called from several threads at once.
        count: how many there are.
        where: says which file crop ``i`` is, or which entry of which file, for errors.
    """

    def __init__(self, read: Callable[[int], bytes], count: int, where: Callable[[int], str]) -> None:
        super().__init__(lambda number: decode_crop(read(number), where(number)), count)


def joined_crops(parts: Sequence[Crops]) -> LazyCrops:
    """Several sets as one, in their order, without copying any."""
    ends = np.cumsum([len(part) for part in parts])

    def one(number: int) -> NDArray[np.uint8]:
        place = int(np.searchsorted(ends, number, side="right"))
        return parts[place][number - int(ends[place])]  # counted from that part's end

    return LazyCrops(one, int(ends[-1]) if len(ends) else 0)


def chosen_crops(crops: Crops, chosen: NDArray[np.int64]) -> LazyCrops:
    """Some of the crops, in the order of their numbers, without copying any."""
    return LazyCrops(lambda number: crops[int(chosen[number])], len(chosen))


def decode_crop(data: bytes, where: str) -> NDArray[np.uint8]:
    """A picture file's bytes as an aligned crop (112, 112, 3).

    Raises:
        ImageError: they are no picture; the message begins with ``where``.
    """
    try:
        return as_crop(load_image(data))
    except ImageError as error:
        raise ImageError(f"{where}: {error}; copy it again, or remove it") from error


def as_crop(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An aligned crop of any size, brought to (112, 112, 3)."""
    if picture.shape == (CROP, CROP, 3):
        return picture
    return np.asarray(cv2.resize(picture, (CROP, CROP), interpolation=cv2.INTER_AREA), np.uint8)


Crops: TypeAlias = NDArray[np.uint8] | LazyCrops
