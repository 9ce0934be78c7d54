"""Names for data: two runs or files are of the same data if their digests are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def digest_of(parts: Iterable[object]) -> str:
    """SHA-256 over arrays (type, shape and bytes) and over anything else as ``repr`` shows it, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}|{part.shape}|".encode())
            digest.update(np.ascontiguousarray(part).view(np.uint8).reshape(-1).data)
        else:
            digest.update(f"{part!r}|".encode())
    return digest.hexdigest()
