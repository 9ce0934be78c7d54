"""The one family of errors that facekd raises on purpose, sorted by what the caller can do about them."""

from __future__ import annotations


class FacekdError(Exception):
    """Base of every error that facekd raises on purpose.

    Attributes:
        exit_code: what the command line exits with when this error ends a command.
    """

    exit_code: int = 3


class ImageError(FacekdError):
    """A picture cannot be used: unreadable, truncated, too large, wrong type. Try another picture."""

    exit_code = 3


class ConfigError(FacekdError):
    """An option, a recipe or an argument is wrong. Correct it and call again."""

    exit_code = 2


class ModelError(FacekdError):
    """A model file is missing, damaged, or does not fit its record. Reinstall or replace it."""

    exit_code = 4


class GalleryError(FacekdError):
    """A gallery is missing, damaged, locked, or was made with another model."""

    exit_code = 4


class DataError(FacekdError):
    """Labels, shards or tables cannot be read, or contradict each other."""

    exit_code = 3


class EnrolmentRefused(FacekdError):
    """A photograph was refused by policy; nothing of it was stored.

    Attributes:
        reason: a stable code, such as ``no-face``, ``several-faces``, ``too-small``, ``blurred`` or ``masked``.
    """

    exit_code = 5

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[EnrolmentRefused], tuple[str, str]]:
        """For copies and other processes: an exception is made anew from its ``args``, which lack the reason."""
        return type(self), (str(self), self.reason)
