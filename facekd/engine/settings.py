"""What a recipe may say about a training run: validated TOML, unknown keys refused."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from facekd.errors import ConfigError
from facekd.zoo import find_model

RecipeT = TypeVar("RecipeT", bound=BaseModel)
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def weights_file(init: str | Path) -> Path:
    """A file of weights: one that ends in .onnx or .safetensors as it stands, or that of a model of the zoo.

    Raises:
        ConfigError: there is no model of this name.
    """
    path = Path(init)
    return path if path.suffix in (".onnx", ".safetensors") or path.is_file() else find_model(str(init)).path


WeightsFile = Annotated[Path, AfterValidator(weights_file)]  # as a recipe names it: a path, or a model of the zoo


class Section(BaseModel):
    """A part of a recipe: immutable, and a misspelt key is an error rather than a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainingSettings(Section):
    """How long, how fast and how often. The stage's own part of the recipe says what is learnt from what.

    Attributes:
        steps: optimiser steps of the whole run; the schedule's length unless ``minutes`` is given.
        minutes: when given, the schedule follows the minutes spent training instead of the steps, and the run
            ends when they are over (or at ``steps``, whichever comes first). For machines whose speed is not known.
        optimizer: AdamW, Muon for the student's matrices and AdamW for the rest, or SGD with Nesterov momentum 0.9.
        learning_rate: the peak, reached after the warm-up.
        final_learning_rate: share of the peak that is left at the end of the cosine.
        weight_decay: on weights of two and more dimensions; never on biases and normalisation layers.
        warmup: share of the schedule during which the rate rises linearly.
        accumulate: batches whose gradients are averaged for one step, as in one batch so many times as large.
        clip_norm: largest Euclidean norm of the gradient; 0 switches clipping off.
        ema_decay: decay of the averaged weights that are validated and exported; 0 switches averaging off.
        precision: arithmetic of the forward pass. bf16 pays only on processors that have it in hardware.
        threads: processor threads for the arithmetic; 0 takes what torch takes by itself.
        loader_threads: threads that prepare batches ahead.
        compile: let torch.compile fuse the student; needs a C++ compiler where training runs. The embedder only.
        validate_every: steps between validations; the best weights by the task's score are what is exported.
        checkpoint_minutes: minutes between resumable checkpoints.
        seed: of everything that is drawn.
    """

    steps: int = Field(gt=0)
    minutes: float | None = Field(default=None, gt=0)
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    learning_rate: float = Field(gt=0)
    final_learning_rate: Fraction = 0.01
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: Fraction = 0.03
    accumulate: int = Field(default=1, ge=1)
    clip_norm: float = Field(default=5.0, ge=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    threads: int = Field(default=0, ge=0)
    loader_threads: int = Field(default=1, ge=1)
    compile: bool = False
    validate_every: int = Field(default=500, ge=1)
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    seed: Seed = 0


def _refuse_compile(settings: TrainingSettings) -> TrainingSettings:
    if settings.compile:
        raise ValueError("compile = true is for the embedder only: leave it out here, where nothing would be compiled")
    return settings


UncompiledTraining = Annotated[TrainingSettings, AfterValidator(_refuse_compile)]
"""Of stages that do not compile their student: a switch without effect is refused."""


def find_recipe(name: str | Path) -> Path:
    """A recipe's file: a path as it stands, or the name of one that comes with facekd.

    Raises:
        ConfigError: when neither exists; the message lists the recipes that do. A path with a folder in it is never
            taken for a name: who has edited a copy must not train by the original.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = Path(str(resources.files("facekd") / "recipes"))
    candidate = packaged / f"{path.name.removesuffix('.toml')}.toml"
    if path.parent == Path() and candidate.is_file():
        return candidate
    known = ", ".join(sorted(p.stem for p in packaged.glob("*.toml")))
    raise ConfigError(f"No recipe {str(name)!r}: give the path of a TOML file, or one of: {known}")


def read_toml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe as a plain dictionary and apply ``key.sub=VALUE`` overrides, VALUE being TOML (or bare text)."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"Cannot read the recipe {path}: {error}") from error
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set wants KEY=VALUE (for example training.steps=100), got {override!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        set_value(table, key, value, f"--set {override!r}")
    return table


def set_value(table: dict[str, Any], key: str, value: object, said: str) -> None:
    """Replace one value of a recipe's table, or add it.

    Args:
        table: of the recipe; it is changed.
        key: ``section.….name``.
        value: of it.
        said: what wants it, for the message.

    Raises:
        ConfigError: a section of the key is a value in this recipe.
    """
    *sections, leaf = key.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{said}: {section!r} is a value in this recipe, not a section: it cannot hold {leaf!r}")
    table[leaf] = value


def parse_recipe(model: type[RecipeT], table: dict[str, Any], source: str | Path = "recipe") -> RecipeT:
    """Validate a recipe's table.

    Raises:
        ConfigError: one line per fault, naming the key and, for an unknown key, those that exist.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            where = ".".join(str(part) for part in fault["loc"])
            hint = f" (known here: {_siblings(model, fault['loc'])})" if fault["type"] == "extra_forbidden" else ""
            lines.append(f"  {where}: {fault['msg']}{hint}")
        raise ConfigError(f"{source} is not a valid recipe:\n" + "\n".join(lines)) from error


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """The names of the fields that exist where an unknown key was found."""
    current: Any = model
    for part in location[:-1]:
        if not (isinstance(current, type) and issubclass(current, BaseModel)) or part not in current.model_fields:
            return "see the recipes' reference"
        current = current.model_fields[str(part)].annotation
    return ", ".join(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else "none"
