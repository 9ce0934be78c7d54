"""The shipped models: a manifest that says what each one is, and weights that are verified before they are used.

Preprocessing is part of a model: colour order, mean, scale, size, layout and alignment template stand in the manifest,
and everything that feeds the model reads them from there. A model's ``contract`` is a digest of weights and
preprocessing together: two embeddings may be compared only when their contracts are equal.

The manifest lies beside this file, or in the folder that the environment variable ``FACEKD_ZOO`` names.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from facekd.errors import ConfigError, ModelError

ZOO_FOLDER = Path(__file__).resolve().parent
ZOO_VARIABLE = "FACEKD_ZOO"

Task = Literal["detector", "refiner", "embedder", "mask"]
TASKS: tuple[Task, ...] = get_args(Task)

_REINSTALL = "reinstall facekd, or point FACEKD_ZOO at a folder with a good manifest.toml"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(_Record):
    """How pixels become the input of a network."""

    colour: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float]
    """Subtracted from each channel, in 0..255, in the model's colour order."""
    scale: tuple[float, float, float]
    """Multiplied after the mean is subtracted: ``(x - mean) * scale``."""
    width: int = Field(ge=0)
    """Pixels; 0 means any multiple of ``multiple``."""
    height: int = Field(ge=0)
    """Pixels; 0 means any multiple of ``multiple``."""
    multiple: int = Field(default=1, ge=1)
    layout: Literal["NCHW"] = "NCHW"
    template: Literal["arcface-112", "face-64", "none"] = "none"

    def apply(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """RGB pictures uint8 (N, H, W, 3) as the network's input, float32 (N, 3, H, W).

        Raises:
            ValueError: wrong type, shape or size for this model.
        """
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3:
            raise ValueError(f"need RGB pictures uint8 (N, H, W, 3), got {batch.dtype} {batch.shape}")
        for name, got, wanted in (("height", batch.shape[1], self.height), ("width", batch.shape[2], self.width)):
            if (wanted and got != wanted) or (not wanted and (got == 0 or got % self.multiple)):
                need = str(wanted) if wanted else f"a positive multiple of {self.multiple}"
                raise ValueError(f"this model needs pictures whose {name} is {need} px, got {got}")
        result = np.empty((len(batch), 3, *batch.shape[1:3]), np.float32)
        order = (0, 1, 2) if self.colour == "RGB" else (2, 1, 0)
        for channel, (source, mean, scale) in enumerate(zip(order, self.mean, self.scale, strict=True)):
            np.subtract(batch[..., source], np.float32(mean), out=result[:, channel], dtype=np.float32)
            if scale != 1.0:
                result[:, channel] *= np.float32(scale)
        return result


class ModelCard(_Record):
    """Where a model comes from and how good it was measured to be."""

    recipe: str = ""
    data: str = ""
    date: str = ""
    licence: str = ""
    parameters: int = 0
    macs: int = 0
    figures: dict[str, float] = {}
    notes: str = ""


class FalseMatchCurve(_Record):
    """An embedder's false matches by threshold, for one kind of probe."""

    people: int | None = None
    pairs: int | None = None
    """Non-mated pairs compared."""
    effective: int | None = Field(default=None, gt=0)
    """How many of equal weight they are worth."""
    thresholds: dict[str, float] = {}
    """Cosine threshold for each false-match rate, such as ``{"1e-3": 0.41}``; the tables below have the same keys."""
    fmr_lower: dict[str, float] = {}
    """Lower end of each rate's 95 % interval; a bootstrap over people."""
    fmr_upper: dict[str, float] = {}
    """Upper end of that interval."""
    people_pairs: dict[str, int] = {}
    """How many different pairs of people the false matches come from; a rate of few pairs counts as extrapolated."""


class Calibration(FalseMatchCurve):
    """What was chosen on validation data so that scores mean something; each task uses its own fields."""

    source: str = ""
    """What it was measured on."""
    masked: FalseMatchCurve | None = None
    """Embedder: the curve of masked probes; without one they share the other."""
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    """Detector: detections below this are not reported."""
    temperature: float | None = Field(default=None, gt=0)
    """Mask head: logits are divided by this before the softmax."""


class ModelRecord(_Record):
    """One model of a manifest."""

    name: str
    task: Task
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    preprocessing: Preprocessing
    card: ModelCard = ModelCard()
    calibration: Calibration | None = None
    folder: Path = Field(default=ZOO_FOLDER, exclude=True)
    """Where ``file`` lies: the folder of the manifest."""

    @model_validator(mode="after")
    def _preprocessing_fits_the_task(self) -> ModelRecord:
        # What the stages' run time makes: photographs of any size for detectors, aligned crops for the others.
        got = self.preprocessing
        if self.task == "detector":
            if (got.width, got.height, got.template) != (0, 0, "none") or got.multiple % 32:
                raise ValueError("a detector needs width 0, height 0, a multiple of 32 and template 'none'")
        elif self.task == "refiner":
            if (got.width, got.height, got.template) != (64, 64, "face-64"):
                raise ValueError("a refiner needs width 64, height 64 and template 'face-64'")
        elif (got.width, got.height, got.template) != (112, 112, "arcface-112"):
            raise ValueError(f"a model for {self.task!r} needs width 112, height 112 and template 'arcface-112'")
        return self

    @property
    def path(self) -> Path:
        """The weights file."""
        return self.folder / self.file

    @property
    def contract(self) -> str:
        """16 hexadecimal digits over the weights' digest and the preprocessing."""
        preprocessing = json.dumps(self.preprocessing.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{self.sha256}\n{preprocessing}".encode()).hexdigest()[:16]


class Manifest(_Record):
    """All models of a zoo, and the one that each task uses by default."""

    defaults: dict[Task, str]
    models: dict[str, ModelRecord]

    @model_validator(mode="after")
    def _defaults_exist(self) -> Manifest:
        for task, name in self.defaults.items():
            if name not in self.models:
                raise ValueError(f"default {task} {name!r} is not among the models {sorted(self.models)}")
            if self.models[name].task != task:
                raise ValueError(f"default {task} {name!r} is a model for the task {self.models[name].task!r}")
        return self


def zoo_folder() -> Path:
    """The zoo in use: the folder that ``FACEKD_ZOO`` names, else the packaged one."""
    return Path(os.environ.get(ZOO_VARIABLE) or ZOO_FOLDER)


def load_manifest(path: str | os.PathLike[str] | None = None) -> Manifest:
    """Read a manifest.

    Args:
        path: a manifest.toml; by default that of the folder named by ``FACEKD_ZOO``, else the packaged one.

    Raises:
        ModelError: the file is missing, is not TOML, or has wrong or unknown keys.
    """
    source = zoo_folder() / "manifest.toml" if path is None else Path(path)
    table = _read_toml(source)
    models = {
        name: {"name": name, "folder": source.resolve().parent, **entry} if isinstance(entry, dict) else entry
        for name, entry in dict(table.get("models", {})).items()
    }
    try:
        return Manifest.model_validate({**table, "models": models})
    except ValidationError as error:
        raise ModelError(f"the manifest {source} is not valid: {_explain(error)}; {_REINSTALL}") from error


def find_model(name_or_task_or_path: str | os.PathLike[str]) -> ModelRecord:
    """The record of a model.

    Args:
        name_or_task_or_path: a task ("detector", "refiner", "embedder", "mask": that task's default), a model's name
            in the manifest, or the path of an .onnx file beside which a .toml of the same name holds its record (the
            keys of one model of the manifest; ``name`` and ``file`` may be left out).

    Raises:
        ConfigError: no such model, or a file without a record beside it.
        ModelError: the manifest is missing, or it or the record beside the file is wrong.
    """
    wanted = os.fspath(name_or_task_or_path)
    if wanted.endswith(".onnx"):
        return _record_beside(Path(wanted))
    manifest = load_manifest()
    for task, name in manifest.defaults.items():
        if task == wanted:
            return manifest.models[name]
    if wanted not in manifest.models:
        known = ", ".join(sorted({*manifest.models, *manifest.defaults}))
        raise ConfigError(f"there is no model {wanted!r}; choose one of {known}, or give the path of an .onnx file")
    return manifest.models[wanted]


def default_model(task: Task) -> ModelRecord | None:
    """The zoo's model for a task; None where it has none.

    Raises:
        ModelError: the manifest is missing or wrong.
    """
    manifest = load_manifest()
    return manifest.models[manifest.defaults[task]] if task in manifest.defaults else None


def read_model(record: ModelRecord) -> bytes:
    """The bytes of a model's weights, verified.

    Raises:
        ModelError: the file is missing or unreadable, or its SHA-256 is not the record's.
    """
    try:
        content = record.path.read_bytes()
    except FileNotFoundError as error:
        message = f"the weights of model {record.name!r} are missing: there is no file {record.path}; {_REINSTALL}"
        raise ModelError(message) from error
    except OSError as error:
        raise ModelError(f"the weights of model {record.name!r} cannot be read: {error}; {_REINSTALL}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != record.sha256:
        raise ModelError(
            f"the weights of model {record.name!r} in {record.path} are damaged or not the right ones: "
            f"SHA-256 is {digest[:12]}…, the manifest says {record.sha256[:12]}…; {_REINSTALL}"
        )
    return content


def _record_beside(weights: Path) -> ModelRecord:
    source = weights.with_suffix(".toml")
    if not weights.is_file():
        raise ConfigError(f"there is no file {weights}; give an .onnx file's path, or the name of a model of the zoo")
    if not source.is_file():
        raise ConfigError(
            f"{weights} has no record {source.name} beside it, which says its task and how it wants its pictures; "
            "facekd train writes one, and facekd import-teacher FILE --out mine.onnx copies an embedder and writes one"
        )
    entry: dict[str, Any] = {"name": weights.stem, "file": weights.name, **_read_toml(source)}
    try:
        return ModelRecord.model_validate({**entry, "folder": weights.resolve().parent})
    except ValidationError as error:
        raise ModelError(f"the record {source} is not valid: {_explain(error)}; correct these keys") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"the model record {path} cannot be read ({error.strerror}); {_REINSTALL}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"the model record {path} is not TOML: {error}; {_REINSTALL}") from error


def _explain(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(str(part) for part in e['loc']) or 'manifest'}: {e['msg']}" for e in error.errors())
