"""How templates and crops lie on disk: plain with a checksum, or sealed with AES-256-GCM.

A sealed record is ``nonce (12 bytes) | ciphertext | tag (16 bytes)``. Its associated data binds it to its gallery, its
table, its number and its owner, so a record moved to another place (somebody's template under another's name) does not
open. Nonces are random: NIST SP 800-38D section 8.3 allows 2**32 of them under one key, and every gallery and every
rotation has a key of its own, derived by HKDF-SHA256 (RFC 5869) from the owner's key and a salt.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from facekd.errors import ConfigError, GalleryError

KEY_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 12
KEY_VARIABLE = "FACEKD_GALLERY_KEY"

KeySource = Callable[[], bytes]
"""Gives the owner's 32-byte key when asked: at opening, and again after another process has rotated it."""


class Sealer(Protocol):
    """Turns bytes into a record and back."""

    name: str

    def seal(self, data: bytes, place: str) -> bytes:
        """Return the record for ``data`` stored at ``place`` (table, number, owner)."""

    def unseal(self, record: bytes, place: str) -> bytes:
        """Return the data; GalleryError when the record is damaged or was moved."""


class PlainSealer:
    """No secrecy; a CRC-32 so that a damaged record is noticed instead of matched."""

    name = "none"

    def seal(self, data: bytes, place: str) -> bytes:
        """Return ``data`` followed by the checksum of its place and itself."""
        return data + self._checksum(data, place)

    def unseal(self, record: bytes, place: str) -> bytes:
        """Return the data, checked."""
        data = record[:-4]
        if len(record) < 4 or record[-4:] != self._checksum(data, place):
            raise GalleryError(f"{place} is damaged (checksum): restore a backup with `facekd gallery restore`")
        return data

    @staticmethod
    def _checksum(data: bytes, place: str) -> bytes:
        return zlib.crc32(data, zlib.crc32(place.encode())).to_bytes(4, "little")


class AesSealer:
    """AES-256-GCM under a key of this gallery alone.

    Args:
        key: the owner's 32 bytes.
        salt: this gallery's salt; a rotation draws a new one.
        gallery: the gallery's identifier, part of every record's associated data.

    Raises:
        ConfigError: the key is not 32 bytes. HKDF would take any, and a password that it took is soon guessed.
    """

    name = "aes-256-gcm"

    def __init__(self, key: bytes, salt: bytes, gallery: str) -> None:
        if not isinstance(key, (bytes, bytearray)) or len(key) != KEY_BYTES:
            given = f"{len(key)} bytes" if isinstance(key, (bytes, bytearray)) else type(key).__name__
            raise _no_key(f"what key= returned ({given})", "return 32 bytes, or let key_from_text read")
        derived = HKDF(algorithm=hashes.SHA256(), length=2 * KEY_BYTES, salt=salt, info=b"facekd gallery 1").derive(key)
        self._cipher = AESGCM(derived[:KEY_BYTES])
        self._check = derived[KEY_BYTES:]
        self._gallery = gallery

    @property
    def key_check(self) -> bytes:
        """16 bytes that tell a wrong key from a damaged gallery, and reveal nothing of the key."""
        return hmac.digest(self._check, b"facekd key check", "sha256")[:16]

    def seal(self, data: bytes, place: str) -> bytes:
        """Return nonce, ciphertext and tag."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, self._associated(place))

    def unseal(self, record: bytes, place: str) -> bytes:
        """Return the data; refuses a damaged, exchanged or moved record."""
        try:
            return self._cipher.decrypt(record[:NONCE_BYTES], record[NONCE_BYTES:], self._associated(place))
        except (InvalidTag, ValueError) as error:
            raise GalleryError(
                f"{place} does not open: it was damaged or moved there; restore a backup with `facekd gallery restore`"
            ) from error

    def _associated(self, place: str) -> bytes:
        return f"{self._gallery}/{place}".encode()


def key_from_text(text: str, origin: str) -> bytes:
    """Read a 256-bit key written as 64 hexadecimal digits or as base64.

    Args:
        text: the key.
        origin: where it comes from, for the message; the key itself is never in one.

    Raises:
        ConfigError: the text is no such key.
    """
    tidy = text.strip()
    try:
        key = bytes.fromhex(tidy) if len(tidy) == 2 * KEY_BYTES else base64.b64decode(tidy, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise _no_key(origin, "write")
    return key


def check_key_source(key: KeySource | None) -> None:
    """Refuse a key itself in the place of what gives it.

    Raises:
        ConfigError: ``key`` cannot be called.
    """
    if key is not None and not callable(key):
        raise ConfigError(
            f"key must be a function that returns the 256-bit key, got {type(key).__name__}: hand over "
            "key_from_file(…), key_from_environment(), or a function of your own"
        )


def _no_key(origin: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"{origin} does not hold a 256-bit key: {remedy} 64 hexadecimal digits or base64 of 32 bytes, "
        "for example the output of `openssl rand -hex 32`"
    )


def key_from_file(path: str | os.PathLike[str]) -> KeySource:
    """A key kept in a file: 32 raw bytes, or text as :func:`key_from_text` takes."""

    def read() -> bytes:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"the key file {path} cannot be read: {error.strerror or error}") from error
        if len(content) == KEY_BYTES:
            return content
        return key_from_text(content.decode("ascii", errors="replace"), f"the key file {path}")

    return read


def key_from_environment(variable: str = KEY_VARIABLE) -> KeySource | None:
    """A key in an environment variable, or None where it is not set."""
    if not os.environ.get(variable):
        return None

    def read() -> bytes:
        return key_from_text(os.environ.get(variable, ""), f"the environment variable {variable}")

    return read


def new_key_file(path: str | os.PathLike[str]) -> KeySource:
    """Draw a key and write it to a new file that only its owner may read.

    Raises:
        ConfigError: the file exists; a key is never overwritten, since what it opens would be lost.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"no key was written to {path}: {error.strerror or error}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(os.urandom(KEY_BYTES).hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key_from_file(path)
