"""What `facekd doctor` looks at: versions, models, the gallery, and what is not protected."""

from __future__ import annotations

import os
import platform
import stat
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import facekd
from facekd.errors import FacekdError
from facekd.gallery.gallery import Gallery
from facekd.gallery.location import MilvusAddress, parse_location
from facekd.gallery.maintenance import check, is_encrypted
from facekd.gallery.records import NoGallery
from facekd.gallery.sealing import KeySource, key_from_environment
from facekd.runtime import open_session
from facekd.zoo import Manifest, ModelRecord, load_manifest

RUN_TIME = (
    "numpy",
    "opencv",
    "onnxruntime",
    "faiss-cpu",
    "scikit-image",
    "scipy",
    "pillow",
    "pydantic",
    "cryptography",
    "typer",
    "rich",
)
OPTIONAL = ("torch", "lightning-fabric", "onnx", "pymilvus", "milvus-lite")

ALWAYS_UNPROTECTED = (
    "no liveness check: a printed photograph, a screen or a mask of a person passes for that person",
    "relatives and twins may match each other; so may strangers, at the error rate asked for",
    "whoever can write the gallery, the models or this user's environment decides who is recognised",
)


def versions() -> dict[str, str | None]:
    """Versions of Python, of facekd and of what it uses; None for what is not installed."""
    found: dict[str, str | None] = {"python": sys.version.split()[0], "facekd": facekd.__version__}
    for name in (*RUN_TIME, *OPTIONAL):
        try:
            found[name] = _opencv_version() if name == "opencv" else metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _opencv_version() -> str | None:
    """Of whichever of its distributions is installed: without windows as facekd installs it, with them for `--show`."""
    try:
        import cv2
    except ImportError:
        return None
    return str(cv2.__version__)


def machine() -> dict[str, Any]:
    """The machine as facekd sees it: system, architecture, and the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.platform(), "architecture": platform.machine(), "cores": cores}


def verify_models(records: list[ModelRecord]) -> list[dict[str, Any]]:
    """Read each model, compare it with its SHA-256 and load it.

    Returns:
        For each ``{"name", "task", "contract", "verified"}``, and ``"error"`` where it is not verified.
    """
    answers: list[dict[str, Any]] = []
    for record in records:
        answer: dict[str, Any] = {"name": record.name, "task": record.task, "contract": record.contract}
        try:
            open_session(record)
        except FacekdError as error:
            answers.append({**answer, "verified": False, "error": str(error)})
        else:
            answers.append({**answer, "verified": True})
    return answers


def gallery_health(location: str | os.PathLike[str], key: KeySource | None = None) -> dict[str, Any] | None:
    """The state of a gallery: people, templates, encryption, file permissions, problems; None where there is none.

    Like ``facekd gallery check`` it finishes erasing what was removed. ``private`` is None on a server, whose files
    are not here to look at; ``encrypted`` is None where it cannot be told; ``not_promised`` says what files promise and
    this gallery does not.
    """
    health: dict[str, Any] = {"path": os.fspath(location), "private": None, "encrypted": None}
    health |= {"not_promised": [], "problems": []}
    try:
        lies = parse_location(location)
        path = lies.folder if isinstance(lies, MilvusAddress) else lies
        if path is not None:
            if not path.exists():
                return None
            health["private"] = _is_private(path)
        if isinstance(lies, Path):
            health["encrypted"] = is_encrypted(lies)  # is known without the key, too
        with Gallery.open(location, create=False, key=key or key_from_environment()) as gallery:
            found = check(gallery)
            health["not_promised"] = list(gallery.store.not_promised)
    except NoGallery as error:
        return None if isinstance(lies, MilvusAddress) else {**health, "problems": [str(error)]}
    except FacekdError as error:
        return {**health, "problems": [str(error)]}
    return {
        **health,
        "people": found.people,
        "templates": found.templates,
        "contract": found.contract,
        "encrypted": found.encrypted,
        "problems": list(found.problems),
    }


def examine(gallery: str | os.PathLike[str], must_exist: bool = False, key: KeySource | None = None) -> dict[str, Any]:
    """Everything that the doctor reports, as one JSON object; healthy when ``problems`` is empty.

    Args:
        gallery: the gallery to look at.
        must_exist: a missing gallery is a problem; otherwise it is none.
        key: of an encrypted gallery; by default that of the environment.
    """
    problems: list[str] = []
    models: list[dict[str, Any]] = []
    manifest: Manifest | None = None
    try:
        manifest = load_manifest()
        models = verify_models(list(manifest.models.values()))
        problems += [model["error"] for model in models if not model["verified"]]
    except FacekdError as error:
        problems.append(str(error))
    found = versions()
    problems += [f"{name} is not installed: reinstall facekd" for name in RUN_TIME if found[name] is None]
    health = gallery_health(gallery, key)
    if health is None and must_exist:
        problems.append(f"there is no gallery at {gallery}: check the path, or enrol somebody first")
    if health is not None:
        problems += [f"gallery {gallery}: {problem}" for problem in health["problems"]]
        problems += _other_model(health, manifest)
    return {
        "versions": found,
        "machine": machine(),
        "models": models,
        "gallery": health,
        "not_protected": not_protected(health, manifest),
        "problems": problems,
    }


def not_protected(health: dict[str, Any] | None, manifest: Manifest | None) -> list[str]:
    """What nobody should rely on, in plain words."""
    words = list(ALWAYS_UNPROTECTED)
    if health is not None and health["not_promised"]:
        words += health["not_promised"]
    elif health is not None and health["encrypted"] is False:
        words.append(
            "the gallery is not encrypted: who reads its file has everybody's templates "
            "(`facekd gallery rotate-key` encrypts it)"
        )
    if health is not None and health["private"] is False:
        words.append(f"other users of this machine may read the gallery: chmod {_private_mode(health['path'])}")
    if manifest is not None and (name := manifest.defaults.get("embedder")) is not None:
        calibration = manifest.models[name].calibration
        if calibration is None or not calibration.thresholds:
            words.append(f"the embedder {name} is not calibrated: no error rate can be promised (`facekd calibrate`)")
    return words


def _other_model(health: dict[str, Any], manifest: Manifest | None) -> list[str]:
    if manifest is None or "contract" not in health or "embedder" not in manifest.defaults:
        return []
    wanted = manifest.models[manifest.defaults["embedder"]].contract
    if health["contract"] == wanted:
        return []
    return [
        f"the gallery holds templates of embedder {health['contract']}, the default embedder is {wanted}: "
        "enrol again, or use the model it was made with"
    ]


def _private_mode(location: str) -> str:
    folder = isinstance(parsed := parse_location(location), MilvusAddress) and parsed.folder
    return f"700 {folder}" if folder else f"600 {location}"


def _is_private(path: Path) -> bool:
    """Whether only the owner can read the file (always True where the system knows no such bits)."""
    return os.name == "nt" or not path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
