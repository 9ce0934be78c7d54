"""What errors of Milvus mean to a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from facekd.errors import GalleryError

EXTRA = 'pip install "facekd[milvus]"'


def missing(package: str, error: ImportError) -> GalleryError:
    """The error for a package that is not installed."""
    return GalleryError(f"a gallery in Milvus needs {package}, which cannot be imported ({error}): {EXTRA}")


@contextmanager
def explained(location: object, remedy: str) -> Iterator[None]:
    """Turn the errors of pymilvus into a GalleryError that says what to do."""
    import grpc  # type: ignore[import-untyped, import-not-found]
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
        raise GalleryError(f"gallery {location}: {_words(error)}; {remedy}") from error


def _words(error: Exception) -> str:
    details = getattr(error, "details", None)  # of gRPC
    message = details() if callable(details) else getattr(error, "message", None)
    return next(iter(str(message or error).splitlines()), type(error).__name__)
