"""Models that several commands open by the same options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facekd.errors import ConfigError

RefinerModel = Annotated[
    str,
    typer.Option("--refiner", metavar="MODEL", help="Second look at each face: auto (the zoo's), none, or as --model."),
]


def load_embedder(model: str, peer: str | None, folder: Path | None) -> Any:
    """The embedder that --model or --peer names."""
    if peer is None:
        from facekd.recognition.embedder import Embedder

        return Embedder(model)
    from facekd.bench.peers import SFace, peer_file

    if peer != SFace.name:
        raise ConfigError(f"{peer!r} is no embedder; the peer here is {SFace.name}")
    return SFace(peer_file(peer, folder))


def open_detector(model: str, refiner: str = "auto") -> Any:
    """The detector that --model and --refiner name."""
    from facekd.detection.detector import Detector

    return Detector(model, refiner=None if refiner == "none" else refiner)
