"""milvus-lite: Milvus inside this process, its files in a folder. One process at a time may have the folder open.

Its server is reached through a socket in a folder that only this user may enter. pymilvus itself would have it listen
on a port of the loopback interface, without a password: every user of the machine could read the templates.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facekd.errors import GalleryError
from facekd.gallery.milvus_errors import missing
from facekd.gallery.records import NoGallery

_running: dict[Path, LiteServer] = {}
_turn = threading.Lock()


@dataclass
class LiteServer:
    """A running server, shared by every gallery of this process that lies in its folder.

    Attributes:
        folder: where its files are.
        uri: where pymilvus reaches it.
        lock: held while a gallery uses it. milvus-lite allows one writer at a time and promises nothing to readers
            beside it.
    """

    folder: Path
    uri: str
    server: Any
    database: Any
    socket_folder: Path | None
    lock: threading.RLock = field(default_factory=threading.RLock)
    users: int = 1

    def release(self) -> None:
        """Stop it when nobody uses it any more, so that another process may open the folder."""
        with _turn:
            self.users -= 1
            if self.users:
                return
            del _running[self.folder]
            self.server.stop(grace=2).wait()
            self.database.close()
            if self.socket_folder is not None:
                shutil.rmtree(self.socket_folder, ignore_errors=True)


def start(folder: Path, *, create: bool) -> LiteServer:
    """Start the server of a folder, or take the one that runs in this process.

    Raises:
        NoGallery: there is no such folder, and ``create`` does not allow to make it.
        GalleryError: another process has it open, milvus-lite is not installed, or it is no folder of milvus-lite.
    """
    with _turn:
        running = _running.get(folder.resolve())
        if running is not None:
            running.users += 1
            return running
        try:
            # Neither package is typed, or need be there.
            from milvus_lite.adapter.grpc.server import (  # type: ignore[import-untyped, import-not-found]
                start_server_in_thread,
            )
            from milvus_lite.exceptions import DataDirLockedError  # type: ignore[import-untyped, import-not-found]
        except ImportError as error:
            raise missing("milvus-lite", error) from error
        logging.getLogger("milvus_lite").setLevel(logging.CRITICAL)  # what goes wrong is told by the caller
        _prepare(folder, create)
        socket_folder = None if sys.platform == "win32" else Path(tempfile.mkdtemp(prefix="facekd-"))
        host = "127.0.0.1" if socket_folder is None else f"unix:{socket_folder}/milvus"
        try:
            server, database, port = start_server_in_thread(str(folder), host=host, port=0)
        except Exception as error:
            if socket_folder is not None:
                shutil.rmtree(socket_folder, ignore_errors=True)
            if isinstance(error, DataDirLockedError):
                raise GalleryError(
                    f"another process has the gallery in {folder} open, and milvus-lite lets one process in: close it "
                    "there, or use a file (several processes) or a Milvus server (several machines)"
                ) from error
            raise GalleryError(f"milvus-lite cannot open {folder}: {error}; restore the folder from a copy") from error
        # The port is part of the socket's name, see start_server_in_thread.
        uri = f"http://127.0.0.1:{port}" if socket_folder is None else f"{host}:0"
        running = LiteServer(folder.resolve(), uri, server, database, socket_folder)
        _running[running.folder] = running
        return running


def _prepare(folder: Path, create: bool) -> None:
    """Make the folder, for its owner only, or see that it is one of milvus-lite's."""
    if not folder.exists():
        if not create:
            raise NoGallery(f"there is no gallery in {folder}: enrol somebody first, or check the path")
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass  # another process made it meanwhile
        except OSError as error:
            raise GalleryError(
                f"no gallery can be made in {folder}: {error.strerror or error}; make the folder above it first"
            ) from error
    elif not folder.is_dir() or (any(folder.iterdir()) and not (folder / "LOCK").exists()):
        raise GalleryError(f"{folder} is no folder of milvus-lite: name a new folder, or one that it made")
    if not os.access(folder, os.W_OK):
        raise GalleryError(f"{folder} cannot be written: check its permissions")
