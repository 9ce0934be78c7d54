"""`facekd evaluate lfw`, `cfp`, `bin`, `pairs` and `ijb`: protocols of listed pairs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from facekd.cli.evaluate_options import (
    EmbedderModel,
    EmbedderPeer,
    Finder,
    PeerModels,
    Plot,
    Sheet,
    check_targets,
    save_curves,
)
from facekd.cli.evaluation_tables import ijb_table, protocols_table, verification_table, with_groups
from facekd.cli.models import load_embedder, open_detector
from facekd.cli.output import JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError


class LfwMode(StrEnum):
    """Where the landmarks come from."""

    aligned = "aligned"
    whole = "whole"


Groups = Annotated[
    Path | None,
    typer.Option(
        "--groups",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="A .csv with a column file or person and one with groups: adds false-match rates within each group.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="COLUMN", help="Which column of --groups, where it has several."),
]


def _folder(holds: str) -> Any:
    return typer.Argument(metavar="DIR", exists=True, file_okay=False, show_default=False, help=holds)


def lfw(
    folder: Annotated[
        Path,
        _folder(
            "Folder with pairs.txt and photographs (folders of people, or photographs.zip); for --mode aligned also "
            "landmarks.csv."
        ),
    ],
    mode: Annotated[
        LfwMode,
        typer.Option("--mode", help="Align from landmarks.csv, or find the faces (LFW as it comes)."),
    ] = LfwMode.aligned,
    masked: Annotated[bool, typer.Option("--masked", help="The second face of a pair wears a drawn mask.")] = False,
    model: EmbedderModel = "embedder",
    detector: Finder = "detector",
    part: Annotated[
        int | None,
        typer.Option("--part", metavar="N", min=1, help="Only N mated and N non-mated pairs a fold: a quick look."),
    ] = None,
    groups: Groups = None,
    group: Group = None,
    sheet: Sheet = None,
    plot: Plot = None,
    peer: EmbedderPeer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Ten-fold accuracy and TAR at FAR on LFW; a face that is not found scores 0."""
    with Output(json=json, threads=threads) as output:
        from facekd.evaluation.lfw import person_of, read_pairs
        from facekd.recognition.evaluate import evaluate_lfw

        check_targets(sheet, plot)
        if masked and groups is not None:
            raise ConfigError("--groups compares all photographs with each other, unmasked: leave --masked out")
        table = _group_table(groups, group)
        if table is not None:
            table.require(read_pairs(folder / "pairs.txt").photographs(), person_of)
        finder = open_detector(detector) if mode is LfwMode.whole else None
        outcome = evaluate_lfw(
            folder, load_embedder(model, peer, peer_models), mode.value, finder, masked, part, output.progress
        )
        if sheet is not None:
            from facekd.recognition.error_sheet import save_lfw_sheet

            save_lfw_sheet(sheet, folder, outcome, masked)
            output.say(f"the worst errors are in {sheet}")
        save_curves(plot, {"LFW": outcome.det_curve()}, output)
        figures = outcome.figures(person_of, groups=table)
        answer = {**figures, "mode": mode.value, "masked": masked, "model": peer or model}
        output.result(answer, text=with_groups(verification_table(figures), figures))


def cfp(
    folder: Annotated[Path, _folder("CFP as it comes: Data/Images and Protocol.")],
    model: EmbedderModel = "embedder",
    detector: Finder = "detector",
    sheet: Sheet = None,
    plot: Plot = None,
    peer: EmbedderPeer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Celebrities in Frontal-Profile, from whole photographs; a face that is not found scores 0."""
    with Output(json=json, threads=threads) as output:
        from facekd.evaluation.cfp import person_of
        from facekd.recognition.evaluate import evaluate_cfp

        check_targets(sheet, plot)
        outcomes = evaluate_cfp(
            folder, load_embedder(model, peer, peer_models), open_detector(detector), output.progress
        )
        if sheet is not None:
            from facekd.recognition.error_sheet import save_photograph_sheet

            save_photograph_sheet(sheet, folder, outcomes)
            output.say(f"the worst errors are in {sheet}")
        save_curves(plot, {name: outcome.det_curve() for name, outcome in outcomes.items()}, output)
        figures: dict[str, Any] = {name: outcome.figures(person_of) for name, outcome in outcomes.items()}
        undetected = {name for outcome in outcomes.values() for name in outcome.undetected}
        answer = {**figures, "undetected": len(undetected), "model": peer or model}
        output.result(answer, text=protocols_table(figures))


def bin_file(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, show_default=False, help="agedb_30.bin, cfp_fp.bin, lfw.bin, …"
        ),
    ],
    model: EmbedderModel = "embedder",
    sheet: Sheet = None,
    plot: Plot = None,
    peer: EmbedderPeer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """A verification set of InsightFace (.bin): aligned crops in pairs; nothing in the file is executed."""
    with Output(json=json, threads=threads) as output:
        from facekd.recognition.evaluate import evaluate_bin

        check_targets(sheet, plot)
        outcome = evaluate_bin(file, load_embedder(model, peer, peer_models), output.progress)
        if sheet is not None:
            from facekd.recognition.error_sheet import save_bin_sheet

            save_bin_sheet(sheet, file, outcome)
            output.say(f"the worst errors are in {sheet}")
        save_curves(plot, {file.stem: outcome.det_curve()}, output)
        figures = outcome.figures()
        output.result({**figures, "model": peer or model}, text=verification_table(figures))


def pairs(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="LIST",
            exists=True,
            dir_okay=False,
            show_default=False,
            help="Lines 'first second label' or 'label first second' (1: one person, 0: two); pairs_CALFW.txt or "
            "pairs_CPLFW.txt; RFW's African_pairs.txt; AgeDB's 04_FINAL_protocol_30_years.mat.",
        ),
    ],
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", exists=True, show_default=False, help="Folder or .zip in which the list's files lie."
        ),
    ],
    aligned: Annotated[
        bool, typer.Option("--aligned", help="The pictures are aligned crops of 112x112: no face is looked for.")
    ] = False,
    model: EmbedderModel = "embedder",
    detector: Finder = "detector",
    groups: Groups = None,
    group: Group = None,
    sheet: Sheet = None,
    plot: Plot = None,
    peer: EmbedderPeer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Pairs by a list: your own, CALFW, CPLFW, RFW, AgeDB, from photographs; a face that is not found scores 0."""
    with Output(json=json, threads=threads) as output:
        from facekd.evaluation.pair_files import read_pair_list
        from facekd.evaluation.pair_people import person_of
        from facekd.recognition.evaluate import evaluate_list

        check_targets(sheet, plot)
        listed = read_pair_list(file)
        by_person = person_of(listed)
        table = _group_table(groups, group)
        if table is not None:
            if by_person is None:
                raise ConfigError(
                    f"--groups needs to know who is in a photograph, and the names in {file} do not say it: "
                    "wanted folders of people, or names like Ada_Lovelace_0001.jpg"
                )
            table.require(listed.photographs(), by_person)
        embedder = load_embedder(model, peer, peer_models)
        finder = None if aligned else open_detector(detector)
        outcome = evaluate_list(listed, images, embedder, finder, output.progress, file.name)
        if sheet is not None:
            from facekd.recognition.error_sheet import save_photograph_sheet

            save_photograph_sheet(sheet, images, {file.stem: outcome})
            output.say(f"the worst errors are in {sheet}")
        save_curves(plot, {file.stem: outcome.det_curve()}, output)
        figures = outcome.figures(by_person, groups=table)
        output.result({**figures, "model": peer or model}, text=with_groups(verification_table(figures), figures))


def ijb(
    folder: Annotated[Path, _folder("Folder with meta/ (the three lists) and loose_crop/ or loose_crop.zip.")],
    model: EmbedderModel = "embedder",
    plot: Plot = None,
    peer: EmbedderPeer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """IJB-B or IJB-C, one to one between templates: TAR at FAR 1e-1 to 1e-6 (meta/ and loose_crop/)."""
    with Output(json=json, threads=threads) as output:
        from facekd.evaluation.verification import det_curve
        from facekd.recognition.evaluate import evaluate_ijb

        check_targets(None, plot)
        found = evaluate_ijb(folder, load_embedder(model, peer, peer_models), output.progress)
        figures = found.figures()
        if plot is not None:
            save_curves(plot, {"IJB": det_curve(found.scores[found.same], found.scores[~found.same])}, output)
        output.result({**figures, "model": peer or model}, text=ijb_table(figures))


def _group_table(groups: Path | None, group: str | None) -> Any:
    """The table of --groups; None without it."""
    if groups is None:
        if group is not None:
            raise ConfigError("--group names a column of the table that --groups gives: give both")
        return None
    from facekd.evaluation.groups import GroupTable

    return GroupTable(groups, group)


def register(evaluate: typer.Typer) -> None:
    """Add the commands to `evaluate`."""
    evaluate.command(
        epilog="Examples: `facekd evaluate lfw lfw/ --mode whole` · `facekd evaluate lfw lfw/ --masked` · "
        "`facekd evaluate lfw lfw/ --model mine.onnx --groups people.csv --group gender`"
    )(lfw)
    evaluate.command(epilog="Example: `facekd evaluate cfp cfp-dataset/ --plot det.png --sheet worst.png`")(cfp)
    evaluate.command("bin", epilog="Example: `facekd evaluate bin agedb_30.bin`")(bin_file)
    evaluate.command(
        epilog="Examples: `facekd evaluate pairs my_pairs.csv photographs/` · "
        "`facekd evaluate pairs cplfw/pairs_CPLFW.txt cplfw/images` · "
        "`facekd evaluate pairs AgeDB/04_FINAL_protocol_30_years.mat AgeDB/03_Protocol_Images` · "
        "`facekd evaluate pairs agedb_30_ann.txt . --aligned`"
    )(pairs)
    evaluate.command(epilog="Example: `facekd evaluate ijb IJBC/ --plot det.png`")(ijb)
