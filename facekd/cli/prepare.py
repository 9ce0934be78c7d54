"""`facekd prepare`: photographs of people to shards of aligned crops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facekd.cli.output import ExitCode, JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError


def prepare(
    folder: Annotated[Path, typer.Argument(help="A folder of people's folders.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Argument(help="A new folder for the shards.")],
    min_face: Annotated[float, typer.Option("--min-face", min=1, help="Shortest side of a face's box, pixels.")] = 36.0,
    min_sharpness: Annotated[
        float, typer.Option("--min-sharpness", min=0, help="Least variance of a crop's Laplacian; 0 keeps all.")
    ] = 0.0,
    val_share: Annotated[
        float, typer.Option("--val-share", min=0, max=1, help="Share of the people that training never sees.")
    ] = 0.1,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="Embedder of the zoo, or .onnx with a record, whose embeddings are stored."),
    ] = None,
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Detect, align and cut a folder of people's folders into training shards.

    Pictures directly in FOLDER, or in a folder called _unlabelled, are taken as faces of nobody in particular.

    Example:

        facekd prepare photographs shards --val-share 0.1
    """
    with Output(json=json, threads=threads) as output:
        from facekd.detection.detector import Detector
        from facekd.recognition.data.prepare import PrepareSettings
        from facekd.recognition.data.prepare import prepare as run
        from facekd.recognition.embedder import Embedder

        if out.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{out} lies inside {folder}; shards must not be taken for photographs")
        known = None
        if teacher is not None:
            name = Path(teacher).stem if teacher.endswith(".onnx") else teacher
            known = (name, Embedder(teacher).embed)
        report = run(
            folder,
            out,
            Detector(),
            PrepareSettings(min_face, min_sharpness, val_share),
            known,
            lambda photographs: output.progress(photographs, "preparing"),
        )
        for path, reason in report.left_out:
            output.say(f"left out: {path}: {reason}")
        if not report.crops:
            output.at_least(ExitCode.BAD_INPUT)
        output.result(
            {
                "crops": report.crops,
                "people": report.people,
                "left_out": [{"path": path, "reason": reason} for path, reason in report.left_out],
            },
            text=f"{report.crops} crops of {report.people} people in {out}; "
            f"{len(report.left_out)} photographs left out",
        )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("prepare")(prepare)
