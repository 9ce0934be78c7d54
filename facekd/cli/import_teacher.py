"""`facekd import-teacher`: public checkpoints as teachers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from facekd.cli.output import JsonOption, Output, ThreadsOption

if TYPE_CHECKING:
    from facekd.recognition.embedder import Embedder


class Colour(StrEnum):
    """Channel order."""

    rgb = "RGB"
    bgr = "BGR"


def import_teacher(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, show_default=False, help=".onnx or torch.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.onnx", help="Where it goes [teachers/NAME OF THE FILE.onnx].")
    ] = None,
    lfw: Annotated[
        Path | None,
        typer.Option("--lfw", metavar="DIR", exists=True, file_okay=False, help="Verify it on LFW, as evaluate lfw."),
    ] = None,
    at_least: Annotated[
        float, typer.Option("--at-least", min=0, max=1, help="Accuracy on LFW under which it is refused.")
    ] = 0.99,
    part: Annotated[
        int | None,
        typer.Option("--part", metavar="N", min=1, help="Verify on N mated and N non-mated pairs a fold only."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Import it even if LFW says no.")] = False,
    colour: Annotated[Colour, typer.Option("--colour", help="Channel order that the network wants.")] = Colour.rgb,
    mean: Annotated[
        float | None,
        typer.Option("--mean", help="It wants (x - mean) * scale of x in 0..255 [127.5; 0 for some ONNX]."),
    ] = None,
    scale: Annotated[float | None, typer.Option("--scale", help="[1/127.5; 1 for some ONNX]")] = None,
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Bring a public face recognition network into facekd as a teacher, and verify it.

    Reads torch checkpoints of CurricularFace's repository (IR and IR-SE) and of InsightFace's arcface_torch (r18, r34,
    r50, r100), and any ONNX file that turns 112x112 crops into embeddings. Of torch files only tensors are read;
    nothing in them is executed.

    Examples:

        facekd import-teacher CurricularFace_Backbone.pth --lfw lfw

        facekd import-teacher w600k_r50.onnx --out teachers/r50.onnx --lfw lfw --part 60
    """
    with Output(json=json, threads=threads) as output:
        from datetime import date

        from facekd.recognition.import_teacher import Check  # torch: only when something is imported
        from facekd.recognition.import_teacher import import_teacher as run

        def accuracy(embedder: Embedder) -> float:
            from facekd.detection.detector import Detector
            from facekd.recognition.evaluate import evaluate_lfw

            assert lfw is not None
            aligned = (lfw / "landmarks.csv").is_file()
            finder = None if aligned else Detector()
            mode: Literal["aligned", "whole"] = "aligned" if aligned else "whole"
            output.say(f"verifying on LFW ({mode})")
            outcome = evaluate_lfw(lfw, embedder, mode, finder, part=part, progress=output.progress)
            return float(outcome.figures()["accuracy"])

        check = None if lfw is None else Check(accuracy, at_least, force)
        if lfw is None:
            output.warn("without --lfw nothing is known of how good this teacher is")
        target = out or Path("teachers") / f"{file.stem}.onnx"
        found = run(file, target, today=date.today(), colour=colour.value, mean=mean, scale=scale, check=check)
        verified = "not verified" if found.lfw is None else f"LFW {100 * found.lfw:.2f} %"
        pixels = f"{found.colour}, (x - {found.mean:g}) * {found.scale:.6g}"
        output.result(
            {
                "weights": found.path,
                "naming": found.naming,
                "dimension": found.dimension,
                "parameters": found.parameters,
                "pixels": {"colour": found.colour, "mean": found.mean, "scale": found.scale},
                "parity": found.parity,
                "lfw": found.lfw,
                "recipe": found.lines(),
            },
            text=f"{found.path}: {found.naming}, {found.parameters:,} parameters, {found.dimension}-d, wants {pixels}; "
            f"agrees with the original to {found.parity:.6f}; {verified}\n\n" + "\n".join(found.lines()),
        )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import-teacher")(import_teacher)
