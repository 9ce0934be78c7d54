"""Writing what ``facekd.zoo`` reads: the record beside a trained model, and a manifest that a model is added to."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from facekd.errors import ConfigError, ModelError
from facekd.whole_files import write_whole
from facekd.zoo import (
    TASKS,
    Calibration,
    Manifest,
    ModelCard,
    ModelRecord,
    Preprocessing,
    Task,
    load_manifest,
    read_model,
)

MANIFEST = "manifest.toml"

_HEADER = """\
# The shipped models. [defaults] names the model of each task; weights are verified against sha256 when they are loaded.
# preprocessing: (x - mean) * scale for x in 0..255, in the stated colour order; width and height 0: any multiple.
# Written by `facekd zoo add`.
"""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def write_record(
    weights: Path,
    task: Task,
    preprocessing: Preprocessing,
    card: ModelCard,
    calibration: Calibration | None = None,
) -> Path:
    """Write the record of an ONNX file beside it, so that ``find_model`` accepts the file's path.

    Returns:
        The record's path: that of the weights with the suffix ``.toml``.

    Raises:
        ConfigError: the card or the calibration holds text that TOML cannot hold.
        ModelError: the weights cannot be read.
    """
    try:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {weights}: {error.strerror}") from error
    record = ModelRecord(
        name=weights.stem,
        task=task,
        file=weights.name,
        sha256=digest,
        preprocessing=preprocessing,
        card=card,
        calibration=calibration,
    )
    target = weights.with_suffix(".toml")
    write_whole(target, _readable("\n".join(_table((), _plain(record))) + "\n"))
    return target


def add_model(
    folder: Path,
    record: ModelRecord,
    name: str,
    *,
    card: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    default: bool = True,
    change: Callable[[bytes], bytes] | None = None,
) -> ModelRecord:
    """Copy a model into a zoo folder under a name, replacing one of that name, and write the manifest.

    Args:
        folder: holds ``manifest.toml``, or becomes a new zoo.
        record: the model, as ``find_model`` gives it; its weights are verified first.
        name: small letters, digits, dots and dashes; the file becomes ``NAME.onnx``.
        card: values that replace those of the record's card.
        calibration: replaces the record's.
        default: make it the default of its task. The first model of a task always is.
        change: what becomes of the weights on the way, such as `facekd.engine.half_storage.halve_weights`. Another
            digest is another contract.

    Returns:
        The record as it now stands in the manifest.

    Raises:
        ConfigError: the name is not usable, or the card has unknown keys or wrong values.
        ModelError: the weights are damaged, or the folder's manifest is.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a model: small letters, digits, dots and dashes, please")
    if name in TASKS:
        raise ConfigError(f"{name!r} is the name of a task, and means that task's default: take another name")
    unknown = set(card or {}) - set(ModelCard.model_fields)
    if unknown:
        raise ConfigError(
            f"a model's card has no {', '.join(sorted(unknown))}; known: {', '.join(ModelCard.model_fields)}"
        )
    try:
        described = ModelCard.model_validate({**record.card.model_dump(), **(card or {})})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors())
        raise ConfigError(f"a model's card cannot hold this: {wrong}") from error
    content = read_model(record)
    if change is not None:
        content = change(content)
    path = folder / MANIFEST
    manifest = load_manifest(path) if path.exists() else Manifest(defaults={}, models={})
    added = record.model_copy(
        update={
            "name": name,
            "file": f"{name}.onnx",
            "sha256": hashlib.sha256(content).hexdigest(),
            "folder": folder,
            "card": described,
            "calibration": calibration or record.calibration,
        }
    )
    defaults = dict(manifest.defaults)
    if default or added.task not in defaults:
        defaults[added.task] = name
    text = _manifest_text(Manifest(defaults=defaults, models={**manifest.models, name: added}))
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / added.file, content)
    write_whole(path, text)
    return added


def read_calibration(path: Path) -> Calibration:
    """The calibration in a TOML file that ``facekd calibrate CROPS --out FILE.toml`` wrote.

    Raises:
        ConfigError: the file cannot be read, or does not hold exactly one calibration.
    """
    try:
        models = tomllib.loads(path.read_text(encoding="utf-8")).get("models", {})
        found = [entry["calibration"] for entry in models.values() if "calibration" in entry]
        if len(found) != 1:
            raise ConfigError(f"{path} holds {len(found)} calibrations; facekd calibrate --out FILE.toml writes one")
        return Calibration.model_validate(found[0])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"cannot read a calibration from {path}: {error}") from error


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest as TOML; reading it again gives an equal one.

    Raises:
        ConfigError: it holds text that TOML cannot hold; what was there before stays.
    """
    write_whole(path, _manifest_text(manifest))


def calibration_text(name: str, calibration: Calibration) -> str:
    """The TOML lines of a model's calibration in a manifest, as :func:`read_calibration` takes them.

    Raises:
        ConfigError: it holds text that TOML cannot hold.
    """
    return _readable("\n".join(_table(("models", name, "calibration"), _plain(calibration))) + "\n")


def _manifest_text(manifest: Manifest) -> str:
    lines = [_HEADER, *_table(("defaults",), {str(task): name for task, name in manifest.defaults.items()})]
    for name, record in manifest.models.items():
        entry = {key: value for key, value in _plain(record).items() if key != "name"}
        lines += ["", *_table(("models", name), entry)]
    return _readable("\n".join(lines) + "\n")


def _readable(text: str) -> str:
    """The text, once it was read back: one that cannot be read must not replace one that can."""
    try:
        tomllib.loads(text)
        text.encode()
    except (tomllib.TOMLDecodeError, UnicodeEncodeError) as error:
        raise ConfigError(f"this cannot be written as TOML, is there a character that no text has? {error}") from error
    return text


def _plain(model: BaseModel) -> dict[str, Any]:
    """The values of a record that are set, in JSON's types; what equals its default is left out."""
    return model.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def _table(path: tuple[str, ...], values: Mapping[str, Any]) -> list[str]:
    """TOML lines of one table and of the tables in it."""
    lines = [f"[{'.'.join(map(_key, path))}]"] if path else []
    lines += [f"{_key(key)} = {_value(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", *_table((*path, key), value)]
    return lines


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key)


def _value(value: Any) -> str:
    """A TOML value. TOML's strings, numbers, booleans and arrays are written as JSON's are, nan and inf are not."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
