"""`facekd calibrate`: which cosine has which false-match rate, from labelled crops."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from facekd.cli.output import JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError

if TYPE_CHECKING:
    from facekd.evaluation.calibrate import CalibrationPoint
    from facekd.gallery.calibration import Calibration

SUFFIXES = (".json", ".toml")


def calibrate(
    crops: Annotated[
        Path,
        typer.Argument(
            metavar="CROPS", exists=True, file_okay=False, show_default=False, help="Folder with faces.csv."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            dir_okay=False,
            help=".json: the artefact that galleries take; .toml: the lines of a model's record in the zoo.",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Never the part that figures come from.")
    ] = "val",
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Embedder.")] = "embedder",
    masked: Annotated[
        bool, typer.Option("--masked/--no-masked", help="Also for masked probes: masks are drawn on the crops.")
    ] = True,
    replicates: Annotated[int, typer.Option("--replicates", min=20, help="Bootstrap over people.")] = 200,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Find the cosine of each false-match rate on labelled crops, with intervals over people.

    Rates that would rest on fewer than ten false matches are left out: beyond the last one a gallery extrapolates, and
    says so.
    """
    with Output(json=json, threads=threads) as output:
        if out is not None and out.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"Cannot write {out}: the suffix must be one of {', '.join(SUFFIXES)}")
        from facekd.recognition.calibrate import calibrate_crops
        from facekd.recognition.embedder import Embedder

        embedder = Embedder(model)
        curves = calibrate_crops(crops, split, embedder, masked, replicates, output.progress)
        source = f"{crops.name}, split {split}"
        artefact = _artefact(embedder.contract, source, curves)
        if out is not None:
            if out.suffix.lower() == ".toml":
                out.write_text(_record_lines(embedder.record.name, source, artefact), encoding="utf-8")
            else:
                artefact.save(out)
            output.say(f"the calibration is in {out}")
        output.result(artefact.model_dump(mode="json"), text=_table(curves))


def _artefact(contract: str, source: str, curves: dict[str, Any]) -> Calibration:
    from facekd.gallery.calibration import Calibration, Curve, Point

    def curve(kind: str) -> Curve | None:
        if kind not in curves:
            return None
        measured = curves[kind]
        points = tuple(Point(**asdict(point)) for point in measured.points)
        return Curve(points=points, people=measured.people, pairs=measured.pairs, mated_pairs=measured.mated_pairs)

    unmasked = curve("unmasked")
    if unmasked is None:
        raise ConfigError("a calibration needs unmasked comparisons")
    return Calibration(contract=contract, source=source, unmasked=unmasked, masked=curve("masked"))


def _record_lines(name: str, source: str, artefact: Calibration) -> str:
    curve = artefact.unmasked
    lines = [
        f"[models.{name}.calibration]",
        f'source = "{source}"',
        f"people = {curve.people}",
        f"pairs = {curve.pairs}",
        "",
        f"[models.{name}.calibration.thresholds]",
        *(f'"{_label(point.fmr)}" = {point.threshold:.6f}' for point in curve.points),
        "",
        f"[models.{name}.calibration.fmr_upper]",
        *(f'"{_label(point.fmr)}" = {point.fmr_upper:.3g}' for point in curve.points),
    ]
    return "\n".join(lines) + "\n"


def _label(rate: float) -> str:
    from facekd.evaluation.verification import rate_label

    return rate_label(rate)


def _table(curves: dict[str, Any]) -> Table:
    table = Table("probes", "FMR", "95 % over people", "threshold", "FNMR", "pairs of people")
    for kind, measured in curves.items():
        points: list[CalibrationPoint] = measured.points
        for point in points:
            table.add_row(
                kind,
                _label(point.fmr),
                f"{point.fmr_lower:.1e} to {point.fmr_upper:.1e}",
                f"{point.threshold:.4f}",
                f"{point.fnmr:.4f}",
                str(point.people_pairs),
            )
    return table


def register(app: typer.Typer) -> None:
    """Add `calibrate` to the application."""
    app.command(epilog="Examples: `facekd calibrate crops/ --out calibration.json`")(calibrate)
