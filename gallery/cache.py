"""The index of a large gallery on disk, so that opening need not read every template.

``GALLERY.index`` holds a line of JSON (which gallery, at which change) and the index in sealed pieces: encrypted where
the gallery is, with checksums where it is not. Whatever does not fit or open is ignored and made anew. It is only ever
written or deleted under the gallery's write lock, and every change but an addition deletes it: codes of somebody who
was removed must not outlive the removal.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from facekd.errors import GalleryError
from facekd.gallery.sealing import Sealer

FORMAT = "facekd index 1"
PIECE_BYTES = 64 * 2**20


def cache_path(gallery: Path) -> Path:
    """Where a gallery's cache lies."""
    return gallery.with_name(gallery.name + ".index")


def drop(gallery: Path) -> None:
    """Delete the cache, where there is one. Inside a change."""
    cache_path(gallery).unlink(missing_ok=True)


def save(gallery: Path, identity: str, journal: int, content: bytes, sealer: Sealer) -> bool:
    """Write the cache, complete or not at all. Inside a change.

    Args:
        gallery: the gallery's file.
        identity: the gallery's identifier.
        journal: the change up to which the index goes.
        content: the index.
        sealer: the gallery's.

    Returns:
        False when it could not be written (no room, no permission): the next opening is slow, nothing else.
    """
    target = cache_path(gallery)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    pieces = range(0, max(1, len(content)), PIECE_BYTES)
    header = {"format": FORMAT, "gallery": identity, "journal": journal, "pieces": len(pieces)}
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            for number, start in enumerate(pieces):
                record = sealer.seal(content[start : start + PIECE_BYTES], _place(journal, number, len(pieces)))
                file.write(len(record).to_bytes(8, "little") + record)
        partial.replace(target)
    except OSError:
        partial.unlink(missing_ok=True)
        return False
    return True


def load(gallery: Path, identity: str, sealer: Sealer) -> tuple[int, bytes] | None:
    """The change up to which the cached index goes, and the index; None where there is none of any use."""
    try:
        with cache_path(gallery).open("rb") as file:
            header = json.loads(file.readline(4096))
            if header["format"] != FORMAT or header["gallery"] != identity:
                return None
            journal, count = int(header["journal"]), int(header["pieces"])
            pieces = []
            for number in range(count):
                length = int.from_bytes(file.read(8), "little")
                if length > 2 * PIECE_BYTES:
                    return None
                pieces.append(sealer.unseal(file.read(length), _place(journal, number, count)))
    except (OSError, ValueError, KeyError, TypeError, GalleryError):
        return None
    return journal, b"".join(pieces)


def _place(journal: int, number: int, count: int) -> str:
    return f"index/{journal}/{number}/{count}"
