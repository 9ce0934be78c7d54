"""Where a gallery lies: a file of this machine, or a collection of a Milvus server."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from facekd.errors import ConfigError

GALLERY_VARIABLE = "FACEKD_GALLERY"
LITE = "milvus-lite:"
DEFAULT_COLLECTION = "facekd"
DEFAULT_PORT = 19530

_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")  # Milvus' own rule, with room for what is put behind
_REMOTE = ("milvus", "http", "https")
# By platform: the variable that names the folder of a user's data, and where below the home folder it is without.
_DATA_FOLDERS = {"win32": ("LOCALAPPDATA", ""), "darwin": ("", "Library/Application Support")}


@dataclass(frozen=True, slots=True)
class MilvusAddress:
    """A gallery in Milvus.

    Attributes:
        text: as it was given, for messages.
        collection: the gallery's name; its collections begin with it.
        uri: the server for pymilvus; empty for milvus-lite.
        database: of the server; empty for its default one.
        folder: where milvus-lite keeps its files; None for a server.
    """

    text: str
    collection: str
    uri: str = ""
    database: str = ""
    folder: Path | None = None

    def __str__(self) -> str:
        return self.text


def parse_location(location: str | os.PathLike[str]) -> Path | MilvusAddress:
    """Tell a file from a gallery in Milvus.

    Args:
        location: a path; ``milvus://HOST[:PORT]/[DATABASE/]COLLECTION``, the same with ``http://`` or (TLS)
            ``https://``; or ``milvus-lite:FOLDER[#COLLECTION]``.

    Raises:
        ConfigError: it looks like an address, and is none.
    """
    text = os.fspath(location)
    if text.startswith(LITE):
        folder, _, collection = text.removeprefix(LITE).partition("#")
        if not folder:
            raise ConfigError(f"{text!r} names no folder: write {LITE}FOLDER")
        return MilvusAddress(text, _checked(collection or DEFAULT_COLLECTION, text), folder=Path(folder).absolute())
    parts = urlsplit(text)
    if parts.scheme not in _REMOTE or not text.startswith(f"{parts.scheme}:/"):
        return Path(location)
    if not text.startswith(f"{parts.scheme}://"):
        raise ConfigError(f"{text!r} has lost a slash: hand an address over as text, not as a Path")
    return _server(text, parts)


def default_location() -> str:
    """The gallery that the command line uses unless told: ``$FACEKD_GALLERY``, else a file of the user's own.

    Raises:
        ConfigError: there is no home folder.
    """
    named = os.environ.get(GALLERY_VARIABLE)
    if named:
        return named
    # An empty variable is an unset one (XDG Base Directory Specification); a relative path is invalid there, too.
    variable, of_home = _DATA_FOLDERS.get(sys.platform, ("XDG_DATA_HOME", ".local/share"))
    data = Path(os.environ.get(variable, "") if variable else "")
    folder = data if data.is_absolute() else _home() / of_home
    return str(folder / "facekd" / "gallery.db")


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # no HOME, and a user whom the system does not know: a container with a bare number
        raise ConfigError(f"there is no home folder for the gallery: use --gallery or {GALLERY_VARIABLE}") from error


def _server(text: str, parts: SplitResult) -> MilvusAddress:
    if parts.username is not None or parts.password is not None:
        # Addresses end up in process lists, shell histories and logs.
        raise ConfigError("a gallery's address must not hold a password: put it into the variable FACEKD_MILVUS_TOKEN")
    wanted = "milvus://HOST:PORT/COLLECTION, or milvus://HOST:PORT/DATABASE/COLLECTION"
    names = [name for name in parts.path.split("/") if name]
    try:
        port = parts.port
    except ValueError:
        port = -1
    if port == -1 or not parts.hostname or not 1 <= len(names) <= 2 or parts.query or parts.fragment:
        raise ConfigError(f"{text!r} is no gallery's address: write {wanted}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    scheme = "http" if parts.scheme == "milvus" else parts.scheme
    port = port or (443 if scheme == "https" else DEFAULT_PORT)
    database = _checked(names[0], text) if len(names) == 2 else ""
    return MilvusAddress(text, _checked(names[-1], text), f"{scheme}://{host}:{port}", database)


def _checked(name: str, text: str) -> str:
    if not _COLLECTION.fullmatch(name):
        raise ConfigError(
            f"{name!r} in {text!r} cannot name a collection: use letters, digits and underscores, at most 100"
        )
    return name
