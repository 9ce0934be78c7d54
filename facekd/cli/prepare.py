"""`facekd prepare`: photographs of people to shards of aligned crops, a teacher's embeddings of crops, screening."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from facekd.cli.output import ExitCode, JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError


def prepare(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder of people's folders of photographs; without OUT, of crops.", exists=True, file_okay=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Argument(help="A new folder for the shards. Without it FOLDER holds aligned crops already.")
    ] = None,
    min_face: Annotated[float, typer.Option("--min-face", min=1, help="Shortest side of a face's box, pixels.")] = 36.0,
    min_sharpness: Annotated[
        float, typer.Option("--min-sharpness", min=0, help="Least variance of a crop's Laplacian; 0 keeps all.")
    ] = 0.0,
    val_share: Annotated[
        float, typer.Option("--val-share", min=0, max=1, help="Share of the people that training never sees.")
    ] = 0.1,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="Cut these faces instead of looking for faces: a detection set's label file, RetinaFace's form.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--leave-out", metavar="TEXT", help="With --labels: photographs with this in their name; repeat."),
    ] = None,
    blends: Annotated[
        int | None,
        typer.Option("--blends", min=1, metavar="N", help="FOLDER holds crops: put N blends of two of them into OUT."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="Embedder of the zoo, or .onnx with a record, whose embeddings are stored."),
    ] = None,
    mirrored: Annotated[
        bool,
        typer.Option("--mirrored", help="With --teacher: store the mean over each crop and its mirror image."),
    ] = False,
    screen: Annotated[
        bool,
        typer.Option("--screen", help="Look for wrong names, copies and further people by the teacher's embeddings."),
    ] = False,
    suspicious_below: Annotated[
        float | None,
        typer.Option(
            "--suspicious-below", min=-1, max=1, metavar="COSINE", help="Screening: less like one's person is a misfit."
        ),
    ] = None,
    group_above: Annotated[
        float | None,
        typer.Option("--group-above", min=-1, max=1, metavar="COSINE", help="Screening: more alike is one person."),
    ] = None,
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Make a folder ready for training: cut its photographs, store a teacher's embeddings, screen the crops.

    With OUT, photographs of people's folders are detected, aligned and cut into training shards. Pictures directly in
    FOLDER, or in a folder called _unlabelled, are taken as faces of nobody in particular. With --labels, faces are
    cut where a label file says, as faces of nobody in particular. With --blends, FOLDER holds aligned crops already,
    and OUT gets new faces, each a mixture of two of those for training: more for a --teacher to be asked about, where
    photographs are few.

    With --teacher, the crops' embeddings go into teacher_NAME.npy beside them; an interrupted call goes on where it
    was. It works on crops of every layout that training reads. --mirrored takes twice as long and suits training,
    which mirrors half of the crops. With --screen, what the teacher finds wrong goes into
    screening.csv, which training obeys until the file is removed. Thresholds that are not given are found from how
    alike the labelled people are to one another.

    Examples:

        facekd prepare photographs shards --val-share 0.1

        facekd prepare shards --teacher teachers/r50.onnx --mirrored --screen

        facekd prepare WIDER_val/images crowd --labels wider/train.txt --leave-out Surgeons --min-face 24

        facekd prepare shards blends --blends 20000 --teacher teachers/r50.onnx
    """
    with Output(json=json, threads=threads) as output:
        if out is None and teacher is None:
            raise ConfigError(
                f"nothing to do with {folder}: name a folder for its crops, or a --teacher to look at them"
            )
        if screen and teacher is None:
            raise ConfigError("--screen needs a --teacher, by whose embeddings it judges")
        if mirrored and teacher is None:
            raise ConfigError("--mirrored says how a --teacher is asked: give one")
        if (labels is not None and out is None) or (leave_out and labels is None):
            raise ConfigError("--labels needs a folder OUT for the crops, and --leave-out needs --labels")
        if blends is not None and (out is None or labels is not None):
            raise ConfigError("--blends needs a folder OUT for the crops, and FOLDER to hold crops: leave out --labels")
        if out is not None and out.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{out} lies inside {folder}; shards must not be taken for photographs")
        kept = (min_face, min_sharpness, val_share)
        answer: dict[str, Any] = {}
        lines: list[str] = []
        if out is not None and blends is not None:
            answer, lines = _blend(folder, out, blends, val_share, output)
        elif out is not None:
            answer, lines = _cut(folder, out, labels, leave_out or [], kept, output)
        if teacher is not None and not output.exit_code:
            crops = out or folder
            name = _store(crops, teacher, mirrored, output)
            answer["teacher"] = name
            lines.append(f"embeddings of {name} in {crops}")
            if screen:
                found = _screen(crops, name, suspicious_below, group_above)
                answer["screening"] = found
                lines.append(_in_words(found, crops))
        output.result(answer, text="\n".join(lines))


def _cut(
    folder: Path, out: Path, labels: Path | None, leave_out: list[str], kept: tuple[float, float, float], output: Output
) -> tuple[dict[str, Any], list[str]]:
    from facekd.detection.detector import Detector
    from facekd.recognition.data.labelled_faces import prepare_labelled
    from facekd.recognition.data.prepare import PrepareSettings
    from facekd.recognition.data.prepare import prepare as run

    settings = PrepareSettings(*kept)
    if labels is None:
        report = run(folder, out, Detector(), settings, lambda photographs: output.progress(photographs, "preparing"))
    else:
        report = prepare_labelled(
            folder, labels, out, settings, leave_out, lambda photographs: output.progress(photographs, "preparing")
        )
    for path, reason in report.left_out:
        output.say(f"left out: {path}: {reason}")
    if not report.crops:
        output.at_least(ExitCode.BAD_INPUT)
    answer = {
        "crops": report.crops,
        "people": report.people,
        "left_out": [{"path": path, "reason": reason} for path, reason in report.left_out],
    }
    left_out = f"{len(report.left_out)} photographs left out"
    return answer, [f"{report.crops} crops of {report.people} people in {out}; {left_out}"]


def _blend(folder: Path, out: Path, count: int, val_share: float, output: Output) -> tuple[dict[str, Any], list[str]]:
    from facekd.recognition.data.blends import prepare_blends

    prepare_blends(folder, out, count, val_share=val_share, progress=lambda n: output.progress(n, "blending"))
    return {"crops": count, "people": 0, "left_out": []}, [f"{count} blends of the crops of {folder} in {out}"]


def _store(folder: Path, teacher: str, mirrored: bool, output: Output) -> str:
    """Store a teacher's embeddings; returns its name in recipes."""
    from facekd.recognition.data.sources import read_folder
    from facekd.recognition.data.stored_teacher import MirroredEmbedder, store_teacher, teacher_file
    from facekd.recognition.embedder import Embedder

    name = Path(teacher).stem if teacher.endswith(".onnx") else teacher
    file = teacher_file(folder, name)
    if name == teacher and file.exists() and not file.with_suffix(".json").exists():
        output.say(f"{file} is taken as it is: nothing says which model made it")
        return name

    def progress(blocks: Iterable[int]) -> Iterator[int]:
        return output.progress(blocks, "embedding")

    embedder = MirroredEmbedder(Embedder(teacher)) if mirrored else Embedder(teacher)
    if not store_teacher(folder, name, embedder, read_folder(folder).crops, progress):
        output.say(f"{folder} has the embeddings of {name} already")
    return name


def _screen(folder: Path, teacher: str, below: float | None, above: float | None) -> dict[str, Any]:
    from dataclasses import asdict

    from facekd.recognition.data.screen_folder import ScreeningSettings, screen_folder
    from facekd.recognition.data.sources import read_folder
    from facekd.recognition.data.stored_teacher import read_teacher

    whole = read_folder(folder)
    embeddings = read_teacher(folder, teacher, len(whole.crops))[:]
    settings = ScreeningSettings(suspicious_below=below, group_above=above)
    return asdict(screen_folder(folder, whole.identities, whole.training, embeddings, settings))


def _in_words(found: dict[str, Any], folder: Path) -> str:
    above = "" if found["group_above"] is None else f" above {found['group_above']:.3f}"
    return (
        f"{found['misfits']} of {found['crops']} training crops lost their name (less than "
        f"{found['suspicious_below']:.3f} like their person, or more like another one), {found['copies']} copies are "
        f"left out, {found['grouped']} unlabelled crops became {found['new_people']} further people{above}: "
        f"{folder / 'screening.csv'}"
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("prepare")(prepare)
