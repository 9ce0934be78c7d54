"""Files that appear under their name only when they are whole; until then what was there stays."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(target: str | os.PathLike[str], *, private: bool = False, durable: bool = False) -> Iterator[Path]:
    """A path beside ``target`` to write to; it takes the target's place when the block ends without an error.

    It ends in the target's suffix, by which libraries tell formats. After an error nothing is left of it; a process
    that is killed leaves a hidden file, which may be deleted. A file that is replaced passes on owner and
    permissions, a link goes on pointing to its file, and a device or a pipe is written to as it is.

    Args:
        target: file to write, in a folder that exists.
        private: for the owner's eyes only, where it is new.
        durable: on the disk before it takes its place, safe from a power cut.

    Raises:
        OSError: it cannot be written (no room, no permission, no such folder); the error names the target.

    Example:
        >>> with whole_file("scores.npy") as part:
        ...     np.save(part, scores)
    """
    goal = Path(os.path.realpath(target))
    if os.path.exists(target) and not os.path.isfile(target):
        yield Path(target)
        return
    part = goal.with_name(f".{goal.stem}.part-{os.getpid()}-{secrets.token_hex(4)}{goal.suffix}")
    try:
        before = goal.stat() if goal.exists() else None
        if before is not None:
            goal.open("r+b").close()  # what is protected against writing refuses, as it would if written to
        mode = 0o600 if private or before is not None else 0o666  # less the umask
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield part
        if before is not None:
            with suppress(PermissionError):  # another's file that may be written to becomes ours
                os.chown(part, before.st_uid, before.st_gid)
            part.chmod(before.st_mode & 0o7777)
        if durable:
            with part.open("rb") as written:
                os.fsync(written.fileno())
        part.replace(goal)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(target)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(target: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file, text in UTF-8, in one step; see :func:`whole_file`."""
    with whole_file(target) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
