"""`facekd evaluate`: the published protocols, with our models or a peer's."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facekd.cli import evaluate_open_set
from facekd.cli.evaluation_tables import crops_table, detection_table, mask_table, row_table, verification_table
from facekd.cli.models import RefinerModel, load_embedder, open_detector
from facekd.cli.output import JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError

if TYPE_CHECKING:
    from facekd.recognition.evaluate import PairOutcome

evaluate = typer.Typer(no_args_is_help=True, help="Measure models on published protocols.")


class LfwMode(StrEnum):
    """Where the landmarks come from."""

    aligned = "aligned"
    whole = "whole"


Folder = Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, show_default=False)]
Split = Annotated[str, typer.Option("--split", metavar="NAME", help="Which part: train, val or test.")]
Embedder = Annotated[str, typer.Option("--model", metavar="MODEL", help="Embedder: name, task, or an .onnx file.")]
DetectorModel = Annotated[str, typer.Option("--model", metavar="MODEL", help="Detector: name, task, or an .onnx file.")]
Finder = Annotated[str, typer.Option("--detector", metavar="MODEL", help="Detector of whole photographs.")]
Peer = Annotated[
    str | None, typer.Option("--peer", metavar="NAME", help="A peer instead of our model: yunet or sface.")
]
PeerModels = Annotated[
    Path | None, typer.Option("--peer-models", metavar="DIR", help="Folder with the peers' ONNX files.")
]
LongSide = Annotated[
    int | None,
    typer.Option("--long-side", metavar="PX", min=32, help="Resize photographs; without it they keep their own size."),
]
AllViews = Annotated[
    bool, typer.Option("--all-views", help="Our detector with all its views, as `detect` runs it, not a single look.")
]
Part = Annotated[
    int | None,
    typer.Option("--part", metavar="N", min=1, help="Only N mated and N non-mated pairs a fold: a quick look."),
]
Sheet = Annotated[
    Path | None, typer.Option("--sheet", metavar="FILE", dir_okay=False, help="Save the worst errors as a picture.")
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", dir_okay=False, help="Save the curve as a picture (extra bench)."),
]


@evaluate.command(epilog="Examples: `facekd evaluate lfw lfw/` · `facekd evaluate lfw lfw/ --mode whole --masked`")
def lfw(
    folder: Folder,
    mode: Annotated[LfwMode, typer.Option("--mode", help="Align from landmarks.csv, or find the faces.")] = (
        LfwMode.aligned
    ),
    masked: Annotated[bool, typer.Option("--masked", help="The second face of a pair wears a drawn mask.")] = False,
    model: Embedder = "embedder",
    detector: Finder = "detector",
    part: Part = None,
    sheet: Sheet = None,
    plot: Plot = None,
    peer: Peer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Ten-fold accuracy and TAR at FAR on LFW; a face that is not found scores 0."""
    with Output(json=json, threads=threads) as output:
        from facekd.evaluation.lfw import person_of
        from facekd.recognition.evaluate import evaluate_lfw

        finder = open_detector(detector) if mode is LfwMode.whole else None
        outcome = evaluate_lfw(
            folder, load_embedder(model, peer, peer_models), mode.value, finder, masked, part, output.progress
        )
        if sheet is not None:
            from facekd.recognition.error_sheet import save_lfw_sheet

            save_lfw_sheet(sheet, folder, outcome, masked)
            output.say(f"the worst errors are in {sheet}")
        _plot_det(plot, {"LFW": outcome}, output)
        figures = {**outcome.figures(person_of), "mode": mode.value, "masked": masked, "model": peer or model}
        output.result(figures, text=verification_table(figures))


@evaluate.command(epilog="Example: `facekd evaluate cfp cfp-dataset/ --json`")
def cfp(
    folder: Folder,
    model: Embedder = "embedder",
    detector: Finder = "detector",
    sheet: Sheet = None,
    plot: Plot = None,
    peer: Peer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Celebrities in Frontal-Profile, from whole photographs; a face that is not found scores 0."""
    with Output(json=json, threads=threads) as output:
        from facekd.evaluation.cfp import person_of
        from facekd.recognition.evaluate import evaluate_cfp

        outcomes = evaluate_cfp(
            folder, load_embedder(model, peer, peer_models), open_detector(detector), output.progress
        )
        if sheet is not None:
            from facekd.recognition.error_sheet import save_photograph_sheet

            save_photograph_sheet(sheet, folder, outcomes)
            output.say(f"the worst errors are in {sheet}")
        _plot_det(plot, outcomes, output)
        figures: dict[str, Any] = {name: outcome.figures(person_of) for name, outcome in outcomes.items()}
        undetected = {name for outcome in outcomes.values() for name in outcome.undetected}
        output.result({**figures, "undetected": len(undetected), "model": peer or model})


@evaluate.command("bin", epilog="Example: `facekd evaluate bin agedb_30.bin`")
def bin_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, show_default=False)],
    model: Embedder = "embedder",
    sheet: Sheet = None,
    plot: Plot = None,
    peer: Peer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """A verification set of InsightFace (.bin): aligned crops in pairs; nothing in the file is executed."""
    with Output(json=json, threads=threads) as output:
        from facekd.recognition.evaluate import evaluate_bin

        outcome = evaluate_bin(file, load_embedder(model, peer, peer_models), output.progress)
        if sheet is not None:
            from facekd.recognition.error_sheet import save_bin_sheet

            save_bin_sheet(sheet, file, outcome)
            output.say(f"the worst errors are in {sheet}")
        _plot_det(plot, {file.stem: outcome}, output)
        figures = {**outcome.figures(), "model": peer or model}
        output.result(figures, text=verification_table(figures))


@evaluate.command(epilog="Example: `facekd evaluate pairs cplfw/pairs_CPLFW.txt cplfw/images`")
def pairs(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, show_default=False)],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", exists=True, show_default=False)],
    model: Embedder = "embedder",
    detector: Finder = "detector",
    sheet: Sheet = None,
    plot: Plot = None,
    peer: Peer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """CALFW or CPLFW by its own list, from whole photographs; a face that is not found scores 0."""
    with Output(json=json, threads=threads) as output:
        from facekd.evaluation.two_line_pairs import names_people, person_of
        from facekd.recognition.evaluate import evaluate_list

        embedder = load_embedder(model, peer, peer_models)
        outcome = evaluate_list(file, images, embedder, open_detector(detector), output.progress)
        if sheet is not None:
            from facekd.recognition.error_sheet import save_photograph_sheet

            save_photograph_sheet(sheet, images, {file.stem: outcome})
            output.say(f"the worst errors are in {sheet}")
        _plot_det(plot, {file.stem: outcome}, output)
        by_person = person_of if names_people(outcome.pairs) else None
        figures = {**outcome.figures(by_person), "model": peer or model}
        output.result(figures, text=verification_table(figures))


@evaluate.command(epilog="Example: `facekd evaluate ijb IJBC/`")
def ijb(
    folder: Folder,
    model: Embedder = "embedder",
    plot: Plot = None,
    peer: Peer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """IJB-B or IJB-C, one to one between templates: TAR at FAR 1e-1 to 1e-6 (meta/ and loose_crop/)."""
    with Output(json=json, threads=threads) as output:
        from facekd.recognition.evaluate import evaluate_ijb

        found = evaluate_ijb(folder, load_embedder(model, peer, peer_models), output.progress)
        figures = found.figures()
        _plot_curves(plot, {"IJB": (found.scores[found.same], found.scores[~found.same])}, output)
        output.result({**figures, "model": peer or model})


@evaluate.command(epilog="Examples: `facekd evaluate crops faces/ --split test` · `… --group ethnicity`")
def crops(
    folder: Folder,
    split: Split = "test",
    model: Embedder = "embedder",
    embeddings: Annotated[
        Path | None,
        typer.Option("--embeddings", metavar="FILE", help="A .npy with a row for each line of faces.csv, no model."),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="COLUMN", help="False-match rates by this column of the table.")
    ] = None,
    replicates: Annotated[int, typer.Option("--replicates", min=0, help="Bootstrap over people; 0: none.")] = 200,
    peer: Peer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """TAR at FAR over all pairs of labelled crops (faces.csv), with intervals by a bootstrap over people."""
    with Output(json=json, threads=threads) as output:
        from facekd.recognition.evaluate_crops import crop_embeddings, evaluate_crops, read_crop_table

        table = read_crop_table(folder, "faces.csv", split)
        embedder = None if embeddings is not None else load_embedder(model, peer, peer_models)
        matrix = crop_embeddings(table, embedder, embeddings, output.progress)
        figures = evaluate_crops(table, matrix, replicates=replicates, group_column=group)
        source = str(embeddings) if embeddings is not None else peer or model
        output.result({**figures, "model": source}, text=crops_table(figures))


@evaluate.command(
    epilog="Examples: `facekd evaluate detection detection/ --split test` · "
    "`facekd evaluate detection photographs/ --labels annotations.json`"
)
def detection(
    folder: Folder,
    split: Split = "test",
    labels_path: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE|DIR",
            exists=True,
            help="Labels in RetinaFace's, WIDER FACE's, VOC's, COCO's or YOLO's form; DIR then holds the photographs.",
        ),
    ] = None,
    model: DetectorModel = "detector",
    refiner: RefinerModel = "auto",
    all_views: AllViews = False,
    long_side: LongSide = None,
    sheet: Sheet = None,
    plot: Plot = None,
    peer: Peer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """AP, recall at precision 0.90 and at 0.1 false alarms a photograph, from labels in RetinaFace's form."""
    with Output(json=json, threads=threads) as output:
        from facekd.detection.evaluate import detection_report, look, read_split
        from facekd.detection.label_formats import read_any_labels
        from facekd.evaluation.photographs import Photographs, folder_or_archive

        finder = _detector(model, refiner, peer, peer_models, all_views)
        labels = read_split(folder, split) if labels_path is None else read_any_labels(labels_path, folder)
        photographs = folder_or_archive(folder, split) if labels_path is None else Photographs(folder)
        names = [photograph.name for photograph in labels]
        found = look(finder, photographs, names, output.progress, long_side_px=long_side)
        if sheet is not None:
            from facekd.detection.error_sheet import save_miss_sheet

            save_miss_sheet(sheet, photographs, labels, found, finder.score_threshold)
            output.say(f"the worst misses are in {sheet}")
        if plot is not None:
            from facekd.bench.plots import plot_detection

            plot_detection(plot, labels, found, peer or model)
            output.say(f"the curve is in {plot}")
        figures = detection_report(labels, found, finder.score_threshold)
        output.result({**figures, **_names(finder, peer or model)}, text=detection_table(figures))


@evaluate.command(epilog="Example: `facekd evaluate wider WIDER_val/images --labels ground_truth/`")
def wider(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", exists=True, show_default=False)],
    labels: Annotated[
        Path,
        typer.Option(
            "--labels", metavar="FILE|DIR", exists=True, show_default=False, help="Text, or .mat files' folder."
        ),
    ],
    model: DetectorModel = "detector",
    refiner: RefinerModel = "auto",
    all_views: AllViews = False,
    peer: Peer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """WIDER FACE's easy, medium and hard AP as its official tool computes them; photographs at their own size."""
    with Output(json=json, threads=threads) as output:
        from facekd.detection.evaluate import evaluate_wider

        finder = _detector(model, refiner, peer, peer_models, all_views)
        figures = evaluate_wider(images, labels, finder, output.progress)
        output.result({**figures, **_names(finder, peer or model)}, text=row_table(figures))


@evaluate.command(epilog="Example: `facekd evaluate landmarks detection/ --split test --source helen`")
def landmarks(
    folder: Folder,
    split: Split = "test",
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Only photographs of this source (photographs.csv).")
    ] = None,
    model: DetectorModel = "detector",
    refiner: RefinerModel = "auto",
    all_views: AllViews = False,
    long_side: LongSide = None,
    peer: Peer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Landmark error by the distance of the eye centres, of the faces that are found."""
    with Output(json=json, threads=threads) as output:
        from facekd.detection.evaluate import evaluate_landmarks

        finder = _detector(model, refiner, peer, peer_models, all_views)
        figures = evaluate_landmarks(folder, split, finder, source, output.progress, long_side_px=long_side)
        output.result({**figures, **_names(finder, peer or model)}, text=row_table(figures))


@evaluate.command(epilog="Example: `facekd evaluate mask mask/ --split test`")
def mask(
    folder: Folder,
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


def _detector(model: str, refiner: str, peer: str | None, folder: Path | None, all_views: bool) -> Any:
    if peer is None:
        from facekd.detection import evaluate as runs

        finder = open_detector(model, refiner)
        return runs.AllViews(finder) if all_views else finder
    from facekd.bench.peers import YuNet, peer_file

    if peer != YuNet.name:
        raise ConfigError(f"{peer!r} is no detector; the peer here is {YuNet.name}")
    return YuNet(peer_file(peer, folder))


def _names(finder: Any, model: str) -> dict[str, str | None]:
    """Which models a figure is of; the refiner is None where each face was looked at once."""
    refiner = getattr(finder, "refiner", None)
    return {"model": model, "refiner": refiner.record.name if refiner else None}


def _plot_det(target: Path | None, outcomes: dict[str, PairOutcome], output: Output) -> None:
    halves = {name: (o.scores[o.pairs.same], o.scores[~o.pairs.same]) for name, o in outcomes.items()}
    _plot_curves(target, halves, output)


def _plot_curves(target: Path | None, halves: dict[str, tuple[Any, Any]], output: Output) -> None:
    """Save a DET curve of each protocol's mated and non-mated scores, if asked for."""
    if target is not None:
        from facekd.bench.plots import plot_det

        plot_det(target, halves)
        output.say(f"the DET curve is in {target}")


def register(app: typer.Typer) -> None:
    """Add `evaluate …` to the application."""
    evaluate_open_set.register(evaluate)
    app.add_typer(evaluate, name="evaluate")
