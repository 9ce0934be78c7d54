"""`facekd evaluate open-set`: what `identify --fpir` promises, and what came of it on other people."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from facekd.cli.models import load_embedder
from facekd.cli.output import ExitCode, JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError

if TYPE_CHECKING:
    from facekd.evaluation.open_set import OpenSetFigures

EPILOG = (
    "Examples: `facekd evaluate open-set faces/ --lfw lfw/ --screening faces/teacher_sface.npy` · "
    "`facekd evaluate open-set faces/ --fpir 0.001 --sizes 500,5000`. Exit code 1: a bound was not kept."
)


def open_set(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", exists=True, file_okay=False, show_default=False, help="Folder with faces.csv."),
    ],
    lfw: Annotated[
        Path | None,
        typer.Option("--lfw", metavar="DIR", exists=True, file_okay=False, help="LFW with landmarks.csv, judged too."),
    ] = None,
    fpir: Annotated[float, typer.Option("--fpir", metavar="P", help="As for identify.")] = 0.01,
    sizes: Annotated[
        str, typer.Option("--sizes", metavar="N,…", help="Templates in the gallery; the largest possible is added.")
    ] = "100,1000",
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Whose people are judged.")] = "test",
    calibrate_on: Annotated[
        str, typer.Option("--calibrate-on", metavar="NAME", help="Whose people the thresholds come from.")
    ] = "val",
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", metavar="FILE", help="Judge this artefact instead of calibrating anew."),
    ] = None,
    templates: Annotated[int, typer.Option("--templates", min=1, help="Photographs enrolled a person.")] = 3,
    fuse: Annotated[
        str, typer.Option("--fuse", metavar="none|beside|instead", help="One template of a person's photographs.")
    ] = "none",
    draws: Annotated[int, typer.Option("--draws", min=1, help="How often half of the people is drawn.")] = 20,
    screening: Annotated[
        Path | None,
        typer.Option(
            "--screening",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Another model's embeddings (.npy, a row for each line of faces.csv): what it takes for a labelled "
            "person is not enrolled without a name.",
        ),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option("--embeddings", metavar="FILE", help="A .npy with a row for each line of faces.csv, no model."),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", file_okay=False, help="Keep the embeddings here for the next run."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="Embedder: name, task, or an .onnx file.")
    ] = "embedder",
    peer: Annotated[
        str | None, typer.Option("--peer", metavar="NAME", help="A peer instead of our model: sface.")
    ] = None,
    peer_models: Annotated[
        Path | None, typer.Option("--peer-models", metavar="DIR", help="Folder with the peers' ONNX files.")
    ] = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Open-set identification: half of the people enrolled, the others impostors; observed FPIR beside the stated one.

    Thresholds come from the people of one split, the judgement from those of another and from LFW.
    """
    with Output(json=json, threads=threads) as output:
        from facekd.gallery.calibration import Calibration
        from facekd.gallery.evaluate import Embedding, calibrate_people, open_set_of, shows_labelled_person
        from facekd.gallery.fusion import parse_fusion
        from facekd.recognition.evaluate_crops import crop_embeddings, read_crop_table

        if split == calibrate_on and calibration is None:
            raise ConfigError(
                f"--split and --calibrate-on are both {split!r}: judge on other people than you choose on"
            )
        wanted, fusion = _sizes(sizes), parse_fusion(fuse)
        embedder = load_embedder(model, peer, peer_models) if embeddings is None else None
        of_model = str(embeddings or peer or model)
        contract = getattr(embedder, "contract", of_model)
        embedding = Embedding(embedder, _label(contract, peer, peer_models), keep, embeddings, output.progress)
        if calibration is not None:
            thresholds = Calibration.load(calibration)
        else:
            source = f"{folder.resolve().name}, split {calibrate_on}"
            thresholds = calibrate_people(embedding.crops(folder, calibrate_on), contract, source)
        people = embedding.crops(folder, split)
        known = None
        if screening is not None:
            others = crop_embeddings(read_crop_table(folder, "faces.csv", split), None, screening)
            known = shows_labelled_person(others, people.identities)
        judged = {split: (people, known)}
        if lfw is not None:
            judged["LFW"] = (embedding.lfw(lfw), None)
        figures = {
            name: open_set_of(
                of,
                thresholds,
                fpir,
                sizes=wanted,
                draws=draws,
                templates_each=templates,
                fusion=fusion,
                same_person=known,
            )
            for name, (of, known) in judged.items()
        }
        if not all(row.kept for rows in figures.values() for row in rows):
            output.at_least(ExitCode.NO)
        answer: dict[str, Any] = {
            "model": of_model,
            "contract": contract,
            "calibration": thresholds.source,
            "fpir": fpir,
            "draws": draws,
            "templates_each": templates,
            "fusion": fusion,
            "results": {name: [row.to_dict() for row in rows] for name, rows in figures.items()},
        }
        output.result(answer, text=_table(figures))


def _label(contract: str, peer: str | None, folder: Path | None) -> str:
    """What names the kept embeddings of a model: a peer has no contract, and two files of it may differ."""
    if peer is None:
        return contract
    from facekd.bench.peers import peer_file

    return f"{peer}-{hashlib.sha256(peer_file(peer, folder).read_bytes()).hexdigest()[:16]}"


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        sizes = [0]
    if any(size < 1 for size in sizes):
        raise ConfigError(f"--sizes takes numbers from 1, such as 100,1000; got {text!r}")
    return sizes


def _table(figures: dict[str, list[OpenSetFigures]]) -> Table:
    headings = (
        "people of",
        "templates",
        "threshold",
        "stated upper bound",
        "observed FPIR",
        "worst draw",
        "FNIR",
        "wrong name",
    )
    table = Table(*headings, box=None, pad_edge=False)
    for name, rows in figures.items():
        for row in rows:
            upper = "none" if row.fpir_upper is None else f"{row.fpir_upper:.4f}"
            table.add_row(
                name,
                f"{row.templates:,}" + (" (extrapolated)" if row.extrapolated else ""),
                f"{row.threshold:.3f}",
                upper + ("" if row.kept else " NOT KEPT"),
                f"{row.fpir:.4f}",
                f"{row.fpir_highest:.4f}",
                f"{row.fnir:.3f}",
                f"{row.misidentified:.4f}",
            )
    return table


def register(evaluate: typer.Typer) -> None:
    """Add `evaluate open-set`."""
    evaluate.command("open-set", epilog=EPILOG)(open_set)
