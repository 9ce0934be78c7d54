"""Photographs by name, from a folder or from a zip archive."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from facekd.errors import DataError


class Photographs:
    """Reads the bytes of photographs by their name, wherever they lie; never writes anything out.

    Args:
        root: a folder, or a ``.zip`` file.

    Raises:
        DataError: there is no such folder or archive.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self._archive: zipfile.ZipFile | None = None
        self._lock = threading.Lock()
        if self.root.is_file():
            try:
                self._archive = zipfile.ZipFile(self.root)
            except (OSError, zipfile.BadZipFile) as error:
                raise DataError(f"Cannot read the archive {self.root}: {error}") from error
        elif not self.root.is_dir():
            raise DataError(f"There is neither a folder nor a zip archive {self.root}")

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Args:
            name: path below the root with "/" between folders.

        Raises:
            DataError: the file is missing or damaged, or its name leads out of the folder.
        """
        try:
            if self._archive is not None:
                with self._lock:  # one file position for all readers
                    return self._archive.read(name)
            parts = PurePosixPath(name)
            if parts.is_absolute() or ".." in parts.parts:
                raise DataError(f"{name!r} leads out of {self.root}; a list of photographs must stay inside its folder")
            return (self.root / parts).read_bytes()
        except (OSError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise DataError(f"Cannot read {name!r} in {self.root}: {error}") from error

    def require(self, names: Sequence[str], wanted_by: str | os.PathLike[str]) -> None:
        """Look whether files are there, before hours are spent on some of them.

        Args:
            names: paths below the root.
            wanted_by: the list that names them, for the message.

        Raises:
            DataError: some are missing; says how many, and the first.
        """
        if self._archive is not None:
            held = set(self._archive.namelist())
            refuse_missing([name for name in names if name not in held], names, wanted_by, self.root)
        else:
            refuse_missing([name for name in names if not (self.root / name).is_file()], names, wanted_by, self.root)

    def names(self) -> list[str]:
        """All files, sorted, with "/" between folders."""
        if self._archive is not None:
            return sorted(name for name in self._archive.namelist() if not name.endswith("/"))
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())


def refuse_missing(missing: Sequence[str], names: Sequence[str], wanted_by: str | os.PathLike[str], root: Path) -> None:
    """Say which of a list's photographs are missing from `root`, if any are.

    Raises:
        DataError: some are.
    """
    if missing:
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise DataError(f"{len(missing)} of the {len(names)} photographs in {wanted_by} are not in {root}: {some}")


def folder_or_archive(root: Path, name: str) -> Photographs:
    """Photographs of ``root/name.zip`` if it exists, otherwise of the folder ``root/name``, otherwise of `root`."""
    for candidate in (root / f"{name}.zip", root / name):
        if candidate.exists():
            return Photographs(candidate)
    return Photographs(root)
