"""A teacher's answers on disk, keyed by the teacher's digest and the data's: stale ones are refused.

A cached answer is that for the untouched picture, so it suits augmentations that the answer should not see, and class
scores under MixUp and CutMix (see `facekd.distill.mixing`). Feature maps are usually too large to keep.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from facekd.distill.teachers import Teacher
from facekd.errors import ConfigError, DataError

TABLE = "cache.json"
FORMAT = 1


def data_digest(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """SHA-256 over the shapes, types and bytes of the arrays that hold pictures and labels, in their order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


class TeacherCache:
    """Answers of one teacher to one data set, row i for picture i, as float16 or float32 files that are mapped, not
    read.

    Args:
        folder: where `build` wrote them.
        teacher_digest: of the teacher whose answers are wanted.
        pictures_digest: of the data (see `data_digest`).

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
        count: int,
        pictures: Callable[[int, int], Tensor],
        pictures_digest: str,
        batch: int = 64,
        half: bool = True,
    ) -> TeacherCache:
        """Ask the teacher about every picture, once; what is there already and fits is kept.

        Args:
            folder: made when missing; an unfinished attempt in it is overwritten, a finished one of another teacher or
                other data is refused.
            teacher: with a digest; one that still changes cannot be cached.
            taps: what to keep.
            count: pictures.
            pictures: gives the pictures start to stop (exclusive) as the teacher wants them.
            pictures_digest: see `data_digest`.
            batch: pictures a call.
            half: store as float16 (cosines of unit vectors keep three digits).

        Raises:
            ConfigError: the teacher has no digest.
            DataError: the folder holds a finished cache of something else.
        """
        if not teacher.digest:
            raise ConfigError(
                "this teacher still changes (an average, or trained online): its answers cannot be cached"
            )
        if (folder / TABLE).is_file():
            found = cls(folder, teacher.digest, pictures_digest)
            if set(taps) <= set(found.shapes) and found.count == count:
                return found
            raise DataError(
                f"the cache in {folder} lacks a tap or has another count; delete the folder and build it again"
            )
        folder.mkdir(parents=True, exist_ok=True)
        kept: dict[str, npt.NDArray[Any]] = {}
        files: dict[str, str] = {tap: f"answers-{number}.npy" for number, tap in enumerate(taps)}
        for start in range(0, count, batch):
            stop = min(start + batch, count)
            answers: Mapping[str, Tensor] = teacher.answer(pictures(start, stop), taps)
            for tap in taps:
                value = answers[tap].detach().float().cpu().numpy()
                if tap not in kept:
                    kept[tap] = np.lib.format.open_memmap(
                        folder / files[tap],
                        mode="w+",
                        dtype=np.float16 if half else np.float32,
                        shape=(count, *value.shape[1:]),
                    )
                if half and np.abs(value).max(initial=0) > np.finfo(np.float16).max:
                    raise DataError(
                        f"answers at {tap!r} exceed float16 ({np.abs(value).max():.3g}); build with half=False"
                    )
                kept[tap][start:stop] = value
        for array in kept.values():
            array.flush()  # type: ignore[attr-defined]
        table = {
            "format": FORMAT,
            "teacher": teacher.digest,
            "data": pictures_digest,
            "count": count,
            "taps": {tap: {"file": files[tap], "shape": list(array.shape[1:])} for tap, array in kept.items()},
        }
        # Written last and in one step: a killed build leaves no table, and so no cache.
        partial = folder / f"{TABLE}.partial"
        partial.write_text(json.dumps(table, indent=1), encoding="utf-8")
        partial.replace(folder / TABLE)
        return cls(folder, teacher.digest, pictures_digest)
