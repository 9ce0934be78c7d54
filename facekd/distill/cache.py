"""A teacher's answers on disk, keyed by the teacher's digest and the data's: stale ones are refused.

A cached answer is that for the untouched picture, so it suits augmentations that the answer should not see, and class
scores under MixUp and CutMix (see `facekd.distill.mixing`). A recipe keeps one with `cache = DIR` beside a teacher's
`file` (see `facekd.distill.opening.cached_answers`).
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from facekd.distill.teachers import Teacher
from facekd.errors import ConfigError, DataError
from facekd.whole_files import write_whole

TABLE = "cache.json"
NOTE = "cache.partial.json"
FORMAT = 1
BATCH = 64  # pictures that a teacher is asked about at a time
EVERY = 32  # such batches between two notes of how far it is

Progress = Callable[[Sequence[int]], Iterator[int]]


@dataclass(frozen=True, slots=True)
class FixedPictures:
    """The pictures that batches are rows of, untouched.

    Attributes:
        count: how many.
        take: gives the pictures start to stop (exclusive) as a teacher sees them, float32 (M, 3, H, W).
        digest: names them and what was done to their pixels; asked only where a cache is wanted.
        moved_by: what later moves the pixels of a batch, so that maps of the untouched picture would not fit.
    """

    count: int
    take: Callable[[int, int], Tensor]
    digest: Callable[[], str]
    moved_by: tuple[str, ...] = ()


class TeacherCache:
    """Answers of one teacher to one data set, row i for picture i, as float16 or float32 files that are mapped, not
    read.

    Args:
        folder: where `build` wrote them.
        teacher_digest: of the teacher whose answers are wanted.
        pictures_digest: of the data (see `FixedPictures`).

    Raises:
        DataError: nothing is there, it is unfinished or damaged, or it belongs to another teacher or other data.
    """

    def __init__(self, folder: Path, teacher_digest: str, pictures_digest: str) -> None:
        try:
            table = json.loads((folder / TABLE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} holds no finished cache of teacher answers ({error}); build it again") from error
        wanted = {"format": FORMAT, "teacher": teacher_digest, "data": pictures_digest}
        for key, value in wanted.items():
            if table.get(key) != value:
                raise DataError(
                    f"the cache in {folder} is stale: its {key} is {str(table.get(key))[:16]}, "
                    f"wanted {str(value)[:16]}; delete the folder and build it again"
                )
        self.count = int(table["count"])
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        for tap, item in table["taps"].items():
            try:
                array = np.load(folder / item["file"], mmap_mode="r")
            except (OSError, ValueError) as error:
                raise DataError(f"{folder / item['file']} is damaged ({error}); build the cache again") from error
            if array.shape != (self.count, *item["shape"]):
                raise DataError(f"{folder / item['file']} has shape {array.shape}; build the cache again")
            self._arrays[tap] = array

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one picture's answer at each tap."""
        return {tap: tuple(array.shape[1:]) for tap, array in self._arrays.items()}

    def rows(self, indices: npt.NDArray[np.integer] | Sequence[int]) -> dict[str, Tensor]:
        """Answers float32 (len(indices), …) of the pictures with these indices, by tap."""
        chosen = np.asarray(indices)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= self.count):
            raise DataError(f"the cache holds {self.count} pictures, asked for number {int(chosen.max())}")
        return {tap: torch.from_numpy(array[chosen].astype(np.float32)) for tap, array in self._arrays.items()}

    @classmethod
    def build(
        cls,
        folder: Path,
        teacher: Teacher,
        taps: Sequence[str],
        pictures: FixedPictures,
        batch: int = BATCH,
        progress: Progress = iter,
    ) -> TeacherCache:
        """Ask the teacher about every picture, once; what is there already and fits is kept.

        Vectors are stored as float32, maps as float16. An interrupted build goes on where it was; several processes
        that want the same cache wait for the one that makes it.

        Args:
            folder: made when missing; an unfinished attempt of another teacher or other data is overwritten, a finished
                one is refused.
            teacher: with a digest; one that still changes cannot be cached.
            taps: what to keep.
            pictures: all of them.
            batch: pictures a call.
            progress: wraps the batches, to show how far it is.

        Raises:
            ConfigError: the teacher has no digest.
            DataError: the folder holds a finished cache of something else, the teacher gives what is no number, or the
                disk is too small.
        """
        if not teacher.digest:
            raise ConfigError(
                "this teacher still changes (an average, or trained online): its answers cannot be cached"
            )
        data = pictures.digest()
        said = {"format": FORMAT, "teacher": teacher.digest, "data": data, "count": pictures.count}
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if not (folder / TABLE).is_file():
                _ask(folder, said, teacher, taps, pictures, batch, progress)
            found = cls(folder, teacher.digest, data)
        if found.count != pictures.count or not set(taps) <= set(found.shapes):
            raise DataError(
                f"the cache in {folder} has answers of {found.count} pictures at {', '.join(found.shapes)}, wanted "
                f"{pictures.count} at {', '.join(taps)}; delete the folder and build it again, or name another one"
            )
        return found


def _ask(
    folder: Path,
    said: dict[str, Any],
    teacher: Teacher,
    taps: Sequence[str],
    pictures: FixedPictures,
    batch: int,
    progress: Progress,
) -> None:
    """Write answers and, last, the table: a killed build leaves none, and so no cache."""
    arrays, done = _taken_up(folder, said, taps)
    files = {tap: f"answers-{number}.npy" for number, tap in enumerate(taps)}

    def described() -> dict[str, Any]:
        for array in arrays.values():
            array.flush()
        return {**said, "taps": {tap: {"file": files[tap], "shape": list(a.shape[1:])} for tap, a in arrays.items()}}

    for number, start in enumerate(progress(range(done, pictures.count, batch)), 1):
        stop = min(start + batch, pictures.count)
        answers = teacher.answer(pictures.take(start, stop), taps)
        for tap in taps:
            value = answers[tap].detach().float().cpu().numpy()
            if tap not in arrays:
                arrays[tap] = _new_array(folder / files[tap], (pictures.count, *value.shape[1:]))
            if not np.isfinite(value).all():
                raise DataError(
                    f"the teacher asked for {folder} answers pictures {start} to {stop - 1} with NaN or infinity at "
                    f"{tap!r}: check its mean and scale, and that its file was exported in float32"
                )
            if np.abs(value).max(initial=0) > np.finfo(arrays[tap].dtype).max:
                raise DataError(
                    f"answers at {tap!r} exceed {arrays[tap].dtype} ({np.abs(value).max():.3g}) and cannot be kept: "
                    "tap another layer, or ask the teacher live"
                )
            arrays[tap][start:stop] = value
        if number % EVERY == 0:
            write_whole(folder / NOTE, json.dumps({**described(), "done": stop}, indent=1))
    write_whole(folder / TABLE, json.dumps(described(), indent=1))
    (folder / NOTE).unlink(missing_ok=True)


def _taken_up(folder: Path, said: dict[str, Any], taps: Sequence[str]) -> tuple[dict[str, np.memmap], int]:
    """What an interrupted build of the same left, and how many pictures it had asked about; else nothing."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        if {key: note.get(key) for key in said} != said or list(note["taps"]) != list(taps):
            return {}, 0
        arrays = {
            tap: np.lib.format.open_memmap(folder / item["file"], mode="r+") for tap, item in note["taps"].items()
        }
        if any(arrays[tap].shape != (said["count"], *item["shape"]) for tap, item in note["taps"].items()):
            return {}, 0
        return arrays, int(note["done"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}, 0


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    dtype = np.dtype(np.float16 if len(shape) > 2 else np.float32)
    wanted, free = int(np.prod(shape)) * dtype.itemsize, shutil.disk_usage(path.parent).free
    if wanted > free:  # a mapped file on a full disk would end the process without a word
        raise DataError(
            f"answers for {path} need {wanted / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB left: name a folder "
            "on another disk, or tap a smaller layer"
        )
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; who dies lets go."""
    with (folder / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
