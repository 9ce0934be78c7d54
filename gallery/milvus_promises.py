"""What galleries in files promise and those in Milvus do not, as `facekd doctor` says it."""

from __future__ import annotations

from urllib.parse import urlsplit

from facekd.gallery.location import MilvusAddress

_ALWAYS = (
    "the gallery lies in Milvus, which holds plain vectors: who reads its storage or its backups has everybody's "
    "templates (galleries in files can be encrypted)",
    "Milvus marks what is removed, and drops its bytes only when it compacts",
    "a gallery in Milvus has no audit log and keeps no crops: after a model upgrade people are enrolled again",
    "Milvus knows no transactions: a crash may leave somebody without templates, or half an import; repeat the change",
)
_LITE = ("milvus-lite lets one process in at a time, and a power cut may lose the latest changes",)
_SERVER = ("only one process may enrol, rename and remove at a time in Milvus: nothing keeps a second one out",)


def not_promised(address: MilvusAddress, *, logs_in: bool) -> tuple[str, ...]:
    """What nobody should rely on in this gallery, in plain words."""
    if address.folder is not None:
        return _ALWAYS + _LITE
    words: tuple[str, ...] = _ALWAYS + _SERVER
    parts = urlsplit(address.uri)
    if parts.scheme != "https" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        words += (f"templates travel to {parts.hostname} in the clear: use an https:// address",)
    if not logs_in:
        words += ("nobody has to log in to Milvus: switch authentication on there, and set FACEKD_MILVUS_TOKEN",)
    return words
