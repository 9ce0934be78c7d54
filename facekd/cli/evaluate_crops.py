"""`facekd evaluate crops` and `mask`: what the networks make of aligned crops in a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facekd.cli.evaluate_options import (
    EmbedderModel,
    EmbedderPeer,
    PeerModels,
    Plot,
    Sheet,
    Split,
    check_targets,
    save_curves,
)
from facekd.cli.evaluation_tables import crops_table, mask_table, with_groups
from facekd.cli.models import load_embedder
from facekd.cli.output import JsonOption, Output, ThreadsOption


def crops(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            exists=True,
            file_okay=False,
            show_default=False,
            help="Folder with faces.csv (file, identity, split; shard: its zip or folder), as `prepare` writes it.",
        ),
    ],
    split: Split = "test",
    model: EmbedderModel = "embedder",
    embeddings: Annotated[
        Path | None,
        typer.Option(
            "--embeddings",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="No model, but unit vectors from a .npy with a row for each line of faces.csv, all splits.",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="COLUMN", help="Also the false-match rate in each group of this column."),
    ] = None,
    replicates: Annotated[
        int,
        typer.Option("--replicates", metavar="N", min=0, help="Draws of the bootstrap; 0: no intervals."),
    ] = 200,
    sheet: Sheet = None,
    plot: Plot = None,
    peer: EmbedderPeer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """TAR at FAR over all pairs of labelled crops (faces.csv), with intervals by a bootstrap over people."""
    with Output(json=json, threads=threads) as output:
        from facekd.evaluation.all_pairs import all_pairs_det_curve
        from facekd.recognition.evaluate_crops import (
            compare_crops,
            crop_embeddings,
            evaluate_crops,
            read_crop_table,
        )

        check_targets(sheet, plot)
        table = read_crop_table(folder, "faces.csv", split)
        table.require(["identity", *([] if group is None else [group])])
        embedder = None if embeddings is not None else load_embedder(model, peer, peer_models)
        matrix = crop_embeddings(table, embedder, embeddings, output.progress)
        pairs = compare_crops(table, matrix)
        figures = evaluate_crops(table, matrix, replicates=replicates, group_column=group, pairs=pairs)
        if sheet is not None:
            from facekd.recognition.error_sheet import save_crop_sheet

            save_crop_sheet(sheet, table, pairs)
            output.say(f"the worst errors are in {sheet}")
        if plot is not None:
            save_curves(plot, {f"{folder.name or folder} {split}": all_pairs_det_curve(pairs)}, output)
        source = str(embeddings) if embeddings is not None else peer or model
        output.result({**figures, "model": source}, text=with_groups(crops_table(figures), figures))


def mask(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            exists=True,
            file_okay=False,
            show_default=False,
            help="Folder with mask.csv (file, label, split; shard: its zip or folder).",
        ),
    ],
    split: Split = "test",
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Mask head.")] = "mask",
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Mask status of aligned crops (mask.csv): accuracy, recall of each class, confusion matrix."""
    with Output(json=json, threads=threads) as output:
        from facekd.recognition.evaluate_crops import evaluate_mask
        from facekd.recognition.mask import MaskHead

        figures = evaluate_mask(folder, split, MaskHead(model), output.progress)
        output.result({**figures, "model": model}, text=mask_table(figures))


def register(evaluate: typer.Typer) -> None:
    """Add the commands to `evaluate`."""
    examples = (
        "Examples: `facekd evaluate crops faces/ --split test --plot det.png --sheet worst.png` · "
        "`facekd evaluate crops faces/ --group ethnicity`"
    )
    evaluate.command(epilog=examples)(crops)
    evaluate.command(epilog="Example: `facekd evaluate mask mask/ --split test`")(mask)
