"""Options that the evaluations share, and what they do with pictures of their results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facekd.cli.output import Output
from facekd.errors import ConfigError

if TYPE_CHECKING:
    from facekd.evaluation.verification import DetCurve


Split = Annotated[str, typer.Option("--split", metavar="NAME", help="Which part: train, val or test.")]
EmbedderModel = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Embedder: a name of the zoo, or an .onnx file with its .toml beside it.",
    ),
]
Finder = Annotated[
    str, typer.Option("--detector", metavar="MODEL", help="Detector that finds the faces: name, or an .onnx file.")
]
EmbedderPeer = Annotated[str | None, typer.Option("--peer", metavar="NAME", help="A peer instead of our model: sface.")]
DetectorPeer = Annotated[str | None, typer.Option("--peer", metavar="NAME", help="A peer instead of our model: yunet.")]
PeerModels = Annotated[
    Path | None, typer.Option("--peer-models", metavar="DIR", help="Folder with the peers' ONNX files.")
]
Sheet = Annotated[
    Path | None,
    typer.Option("--sheet", metavar="FILE", dir_okay=False, help="Save the worst errors as a picture (.png, .jpg)."),
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", dir_okay=False, help="Save the curve as .png, .pdf or .svg (extra bench)."),
]


def check_targets(sheet: Path | None, plot: Path | None) -> None:
    """Look whether the pictures asked for can be written, before hours are spent on what they show.

    Raises:
        ConfigError: a folder does not exist, or the suffix is of no picture that can be written.
        ModuleNotFoundError: a curve needs matplotlib (the command line says which extra has it).
    """
    for option, target, suffixes in (
        ("--sheet", sheet, (".png", ".jpg", ".jpeg", ".webp")),
        ("--plot", plot, (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")),
    ):
        if target is None:
            continue
        if not target.parent.is_dir():
            raise ConfigError(f"{option} {target}: there is no folder {target.parent}")
        if target.suffix.lower() not in suffixes:
            raise ConfigError(f"{option} {target}: the suffix must be one of {', '.join(suffixes)}")
    if plot is not None:
        import matplotlib  # noqa: F401


def save_curves(target: Path | None, curves: Mapping[str, DetCurve], output: Output) -> None:
    """Save a DET curve of each protocol, if asked for."""
    if target is not None:
        from facekd.bench.plots import plot_det

        plot_det(target, curves)
        output.say(f"the DET curve is in {target}")
