"""`facekd evaluate detection`, `wider` and `landmarks`: what the detector finds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facekd.cli.evaluate_options import DetectorPeer, PeerModels, Plot, Sheet, Split, check_targets
from facekd.cli.evaluation_tables import detection_table, row_table
from facekd.cli.models import RefinerModel, open_detector
from facekd.cli.output import JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError, DataError

DetectorModel = Annotated[str, typer.Option("--model", metavar="MODEL", help="Detector: name, task, or an .onnx file.")]
Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        exists=True,
        file_okay=False,
        show_default=False,
        help="Folder with SPLIT.txt (labels in RetinaFace's form) and SPLIT.zip or the folder SPLIT (photographs).",
    ),
]
LongSide = Annotated[
    int | None,
    typer.Option("--long-side", metavar="PX", min=32, help="Resize photographs; without it they keep their own size."),
]
AllViews = Annotated[
    bool, typer.Option("--all-views", help="Our detector with all its views, as `detect` runs it, not a single look.")
]


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
    peer: DetectorPeer = None,
    peer_models: PeerModels = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """AP, recall at precision 0.90 and at 0.1 false alarms a photograph, from labels in RetinaFace's form."""
    with Output(json=json, threads=threads) as output:
        from facekd.detection.evaluate import detection_report, look, read_split
        from facekd.detection.label_formats import read_any_labels
        from facekd.evaluation.photographs import Photographs, folder_or_archive

        check_targets(sheet, plot)
        finder = _detector(model, refiner, peer, peer_models, all_views)
        labels = read_split(folder, split) if labels_path is None else read_any_labels(labels_path, folder)
        photographs = folder_or_archive(folder, split) if labels_path is None else Photographs(folder)
        if not any((~photograph.ignore).any() for photograph in labels):
            raise DataError(f"{labels_path} labels no face in {len(labels)} photographs: there is nothing to find")
        names = [photograph.name for photograph in labels]
        photographs.require(names, labels_path or folder / f"{split}.txt")
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
    peer: DetectorPeer = None,
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
    peer: DetectorPeer = None,
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


def register(evaluate: typer.Typer) -> None:
    """Add the commands to `evaluate`."""
    examples = (
        "Examples: `facekd evaluate detection detection/ --split test` · "
        "`facekd evaluate detection photographs/ --labels annotations.json`"
    )
    evaluate.command(epilog=examples)(detection)
    evaluate.command(epilog="Example: `facekd evaluate wider WIDER_val/images --labels ground_truth/`")(wider)
    evaluate.command(epilog="Example: `facekd evaluate landmarks detection/ --split test --source helen`")(landmarks)
