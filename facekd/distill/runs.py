"""One run of a comparison on disk: what it is, whether it is finished, and who is at it."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facekd.errors import ConfigError
from facekd.whole_files import write_whole
from facekd.zoo import find_model

# How a run is carried out, not what it is: a comparison may go on with other ones.
_MANNER = ("threads", "loader_threads", "checkpoint_minutes", "seed")
# Where crops and their screening come from: what is read from there is in the stage's digest.
_PLACES = ("folders", "faces", "screen_by")
# Files to start from, or names of models of the zoo, which change from release to release.
_STARTS = ("init", "trunk")


@dataclass(frozen=True, slots=True)
class Finished:
    """What a finished run left.

    Attributes:
        chosen: score on `val` of the weights that were kept.
        figures: of the judge, on `test`.
        seconds: that the run took.
    """

    chosen: float
    figures: dict[str, float]
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """One row's run with one seed.

    Attributes:
        row: its name.
        seed: of everything drawn.
        folder: of the run.
        key: digest over everything that decides its result.
    """

    row: str
    seed: int
    folder: Path
    key: str

    def finished(self) -> Finished | None:
        """What it found, or None while it is not finished.

        Raises:
            ConfigError: the folder holds a run of something else.
        """
        mark, result = self.folder / "run.json", self.folder / "figures.json"
        if not mark.is_file():
            return None
        if json.loads(mark.read_text(encoding="utf-8"))["key"] != self.key:
            raise ConfigError(
                f"{self.folder} holds a run of another recipe, other data or another teacher; name another folder, or "
                "delete it"
            )
        return Finished(**json.loads(result.read_text(encoding="utf-8"))) if result.is_file() else None

    @contextmanager
    def claim(self) -> Iterator[bool]:
        """Hold the run inside the block, so that several processes may share a comparison.

        Gives False where another process is at it. A process that dies lets go.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            mark = {"key": self.key, "method": self.row, "seed": self.seed}
            write_whole(self.folder / "run.json", json.dumps(mark))
            yield True

    def finish(self, found: Finished) -> None:
        """Write what it found, in one step."""
        text = json.dumps({"chosen": found.chosen, "figures": found.figures, "seconds": found.seconds}, indent=1)
        write_whole(self.folder / "figures.json", text)


def folder_name(row: str) -> str:
    """The folder of a row."""
    return re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-") or "row"


def shared_identity(table: Mapping[str, Any]) -> dict[str, Any]:
    """What a shared training recipe says: weights to start from by their content, without the data (a stage knows what
    it read), without how a run is carried out, and without terms of its own, in whose place a comparison puts others.
    """
    identity = copy.deepcopy(dict(table))
    for key in _MANNER:
        identity.get("training", {}).pop(key, None)
    identity.get("distill", {}).pop("terms", None)
    for key in _PLACES:
        identity.get("data", {}).pop(key, None)
    network = identity.get("network", {})
    for key in _STARTS:
        if start := network.get(key):
            network[key] = _digest(Path(start) if str(start).endswith(".onnx") else find_model(start).path)
    return identity


def key_of(*parts: Any) -> str:
    """SHA-256 over what decides a run's result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"cannot read the weights to start from, {path}: {error}") from error
