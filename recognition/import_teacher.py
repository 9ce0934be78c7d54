"""Networks of others as teachers: read, rewritten as one of ours, compared with the original, verified on LFW."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from facekd.engine.complexity import measure_complexity
from facekd.errors import ConfigError, ModelError
from facekd.recognition.embedder import Embedder
from facekd.recognition.import_checkpoint import read_checkpoint
from facekd.recognition.import_graph import (
    conform,
    count_weights,
    embedding_output,
    read_graph,
    scales_its_own_pixels,
)
from facekd.recognition.preprocessing import ALIGNED_CROP
from facekd.recognition.train import export_embedder
from facekd.runtime import open_session
from facekd.zoo import ModelCard, Preprocessing
from facekd.zoo.writing import write_record

BYTES = (0.0, 1.0)  # mean and scale of a network that wants pixels in 0..255
CENTRED = (ALIGNED_CROP.mean[0], ALIGNED_CROP.scale[0])
PARITY = 0.9999
CROPS = 8

Crops = NDArray[np.uint8]
Answer = Callable[[Crops], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Imported:
    """A teacher that was written.

    Attributes:
        path: its ONNX file; the record lies beside it.
        naming: what the original was.
        dimension: length of its embeddings.
        parameters: how many numbers it has learnt.
        mean, scale, colour: what the original wants of its pixels.
        parity: lowest cosine between the original's embeddings and the new file's.
        architecture: name and arguments in ``BACKBONES``, where the network is one of ours: as an online teacher it
            then runs in torch, on a GPU if there is one; None where the graph runs as it is.
        lfw: accuracy on LFW, where it was verified.
    """

    path: Path
    naming: str
    dimension: int
    parameters: int
    mean: float
    scale: float
    colour: str
    parity: float
    architecture: tuple[str, dict[str, Any]] | None
    lfw: float | None

    def lines(self) -> list[str]:
        """What a recipe says to learn from it."""
        name = self.path.stem
        lines = [f"[distill.teachers.{_key(name)}]", f'file = "{self.path}"']
        if self.architecture is not None:
            kind, options = self.architecture
            options = {"dimension": self.dimension, **options}
            pairs = ", ".join(f"{key} = {str(value).lower()}" for key, value in options.items())
            lines += [f'architecture = "{kind}"', f"options = {{ {pairs} }}"]
        return [*lines, "", "[[distill.terms]]", 'method = "cosine"', f'source = "{name}"']


@dataclass(frozen=True, slots=True)
class Check:
    """How a teacher is verified.

    Attributes:
        accuracy: gives an embedder's accuracy on LFW, 0..1.
        at_least: below this it is refused.
        force: it is not refused.
    """

    accuracy: Callable[[Embedder], float]
    at_least: float = 0.99
    force: bool = False


@dataclass(slots=True)
class _Read:
    """A file that was read: how to write it as one of ours, and what the original answers to crops."""

    naming: str
    write: Callable[[Path], None]
    answer: Answer
    wanted: Preprocessing
    parameters: int
    multiply_adds: int = 0
    architecture: tuple[str, dict[str, Any]] | None = field(default=None)


def import_teacher(
    file: Path,
    out: Path,
    *,
    today: date,
    colour: str = "RGB",
    mean: float | None = None,
    scale: float | None = None,
    check: Check | None = None,
) -> Imported:
    """Read a public checkpoint or ONNX file and write it as a model of facekd.

    Args:
        file: ``.onnx``, or a torch file (see ``read_checkpoint``).
        out: the ONNX file to write; its record goes beside it. Nothing is left there when the import fails.
        today: for the record.
        colour: channel order that the network wants.
        mean, scale: what it wants of pixels in 0..255, ``(x - mean) * scale``. By default 127.5 and 1 / 127.5, or 0 and
            1 for an ONNX graph that begins with such arithmetic itself.
        check: how to verify it; without one nothing is known of how good it is.

    Raises:
        ConfigError: ``out`` exists or is no ``.onnx``, or the colour order is unknown.
        ModelError: the file cannot be read, is of another network, or the teacher fails its check.
    """
    if out.suffix != ".onnx":
        raise ConfigError(f"a teacher is written as ONNX; {out} does not end in .onnx")
    if out.exists() or out.with_suffix(".toml").exists():
        raise ConfigError(f"{out} exists already, or its record does: name another file, or remove them")
    if colour not in ("RGB", "BGR"):
        raise ConfigError(f"the colour order is {colour!r}; it must be RGB or BGR")
    read = (_read_onnx if file.suffix.lower() == ".onnx" else _read_torch)(file, colour, mean, scale)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".import-") as folder:
        candidate = Path(folder) / out.name
        read.write(candidate)
        card = _card(file, read, today, {})
        record = write_record(candidate, "embedder", ALIGNED_CROP, card)
        embedder = Embedder(candidate)
        parity = _parity(embedder, read.answer, file)
        lfw = None if check is None else _checked(embedder, check, file)
        if lfw is not None:
            record = write_record(candidate, "embedder", ALIGNED_CROP, _card(file, read, today, {"lfw": lfw}))
        candidate.replace(out)
        record.replace(out.with_suffix(".toml"))
    wanted, length = read.wanted, embedder.dimension
    return Imported(
        out, read.naming, length, read.parameters, wanted.mean[0], wanted.scale[0], colour, parity,
        read.architecture, lfw,
    )  # fmt: skip


def _read_torch(file: Path, colour: str, mean: float | None, scale: float | None) -> _Read:
    found = read_checkpoint(file)
    network, wanted = found.network, _wanted(colour, mean, scale, CENTRED)

    @torch.no_grad()
    def answer(crops: Crops) -> NDArray[np.float32]:
        return np.asarray(F.normalize(network(torch.from_numpy(wanted.apply(crops)))).numpy(), np.float32)

    def write(path: Path) -> None:
        export_embedder(network, path)
        if wanted != ALIGNED_CROP:
            onnx.save(conform(read_graph(path), wanted), str(path))

    size = measure_complexity(network)
    # With other pixels than ours, the nodes in front of the graph belong to it, and the network alone is not enough.
    architecture = found.architecture if wanted == ALIGNED_CROP else None
    return _Read(found.naming, write, answer, wanted, size.parameters, size.multiply_adds, architecture)


def _read_onnx(file: Path, colour: str, mean: float | None, scale: float | None) -> _Read:
    model = read_graph(file)
    parameters = count_weights(model)
    wanted = _wanted(colour, mean, scale, BYTES if scales_its_own_pixels(model) else CENTRED)
    output = embedding_output(model)
    original = open_session(model.SerializeToString())
    conformed = conform(model, wanted)

    def answer(crops: Crops) -> NDArray[np.float32]:
        name, place = original.inputs[0], original.outputs.index(output)
        rows = np.concatenate([original.run({name: wanted.apply(crop[None])})[place] for crop in crops])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    return _Read("ONNX", lambda path: onnx.save(conformed, str(path)), answer, wanted, parameters)


def _wanted(colour: str, mean: float | None, scale: float | None, default: tuple[float, float]) -> Preprocessing:
    """What the network wants of its pixels."""
    chosen = default[0] if mean is None else mean, default[1] if scale is None else scale
    return ALIGNED_CROP.model_copy(update={"colour": colour, "mean": (chosen[0],) * 3, "scale": (chosen[1],) * 3})


def _parity(embedder: Embedder, answer: Answer, file: Path) -> float:
    """The lowest cosine between both networks' embeddings of crops made up of coloured blots."""
    blots = np.random.default_rng(0).integers(0, 256, (CROPS, 7, 7, 3), dtype=np.uint8)
    crops = blots.repeat(16, axis=1).repeat(16, axis=2)
    lowest = float((embedder.embed(crops) * answer(crops)).sum(axis=1).min())
    if not lowest >= PARITY:
        raise ModelError(f"the embeddings of {file} and of what was written agree to {lowest:.6f} only: report this")
    return lowest


def _checked(embedder: Embedder, check: Check, file: Path) -> float:
    accuracy = check.accuracy(embedder)
    if accuracy < check.at_least and not check.force:
        raise ModelError(
            f"{file} reaches {100 * accuracy:.2f} % on LFW, under {100 * check.at_least:.2f} %: wrong weights, or "
            "wrong pixels (--colour, --mean, --scale). --force imports it all the same"
        )
    return accuracy


def _card(file: Path, read: _Read, today: date, figures: dict[str, float]) -> ModelCard:
    verified = "" if figures else " Not verified on LFW."
    return ModelCard(
        recipe=f"imported ({read.naming})",
        date=today.isoformat(),
        licence="its owner's; ask before you ship it",
        parameters=read.parameters,
        macs=read.multiply_adds,
        figures=figures,
        notes=f"From {file.name}, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}.{verified}",
    )


def _key(name: str) -> str:
    """A TOML key: bare where that is allowed."""
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else f'"{name}"'
