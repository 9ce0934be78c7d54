"""`facekd enroll`: people into the gallery, from photographs or from a folder of people's folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facekd.cli.gallery_access import FaceOption, GalleryOption, KeyFileOption, open_with_pipeline, parse_face
from facekd.cli.output import JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError

if TYPE_CHECKING:
    from facekd.gallery.enrolment import EnrolmentReport

EPILOG = (
    'Examples: `facekd enroll "Ada Lovelace" ada1.jpg ada2.jpg` · `facekd enroll --folder people/` (one folder a '
    "person) · `facekd enroll Ada group.jpg --face 2`"
)


def enroll(
    name: Annotated[str | None, typer.Argument(show_default=False, help="The person's name.")] = None,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE...", show_default=False, help="Photographs of the person.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="DIR", show_default=False, help="A folder with one folder a person."),
    ] = None,
    gallery: GalleryOption = None,
    face: FaceOption = None,
    allow_masks: Annotated[bool, typer.Option("--allow-masks", help="Enrol masked faces too.")] = False,
    keep_crops: Annotated[
        bool, typer.Option("--keep-crops", help="Store the face's crop too, to be ready for a better model.")
    ] = False,
    fuse: Annotated[
        str,
        typer.Option(
            "--fuse",
            metavar="none|beside|instead",
            help="One template of a person's photographs, beside those of each or instead of them.",
        ),
    ] = "none",
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Enrol people; a photograph that would make a bad reference is refused with the reason.

    Refused are photographs without a face, with several (say which with --face), with a face that is too small,
    blurred or masked, or of which it is not clear whether it is masked. Warned about is a face that is already enrolled
    under another name.
    """
    from facekd.gallery.enrolment import enrol_photographs, without_photographs
    from facekd.gallery.fusion import parse_fusion
    from facekd.gallery.policy import EnrolmentPolicy

    with Output(json=json, threads=threads) as output:
        people = _people(name, images or [], folder)
        which = parse_face(face)
        policy = EnrolmentPolicy(allow_masks=allow_masks, keep_crops=keep_crops, fusion=parse_fusion(fuse))
        opened, pipeline = open_with_pipeline(gallery, key_file, create=True, policy=policy)
        reports: list[EnrolmentReport] = []
        try:
            with opened:
                for person, photographs in output.progress(people, "enrolling"):
                    if photographs or folder is None:
                        report = enrol_photographs(opened, person, photographs, pipeline, which=which)
                    else:
                        report = without_photographs(person, folder / person)
                    reports.append(report)
                    _tell(output, report)
                    output.at_least(report.exit_code)
        finally:
            if reports:  # whatever ends it early: these people are in the gallery
                _answer(output, reports, opened.location)


def _people(name: str | None, images: list[Path], folder: Path | None) -> list[tuple[str, list[Path]]]:
    from facekd.gallery.enrolment import people_of_folder
    from facekd.gallery.records import check_name
    from facekd.images import IMAGE_SUFFIXES

    if folder is not None:
        if name is not None:
            raise ConfigError("name either a person with photographs, or --folder, not both")
        people = list(people_of_folder(folder))
        for person, _ in people:
            check_name(person)  # before the first of them is enrolled
        return people
    if name is None or not images:
        raise ConfigError("name a person and at least one photograph, or --folder DIR")
    if os.path.isfile(name) or Path(name).suffix.lower() in IMAGE_SUFFIXES:
        raise ConfigError(f"{name} is a file: the person's name comes first, as in `facekd enroll Ada {name}`")
    return [(name, images)]


def _answer(output: Output, reports: list[EnrolmentReport], location: object) -> None:
    enrolled = sum(len(report.enrolled) for report in reports)
    known = sum(bool(report.enrolled) for report in reports)
    refused = sum(len(report.refused) for report in reports)
    output.result(
        {"people": [report.to_dict() for report in reports]},
        text=f"{enrolled} photographs enrolled of {known} people, {refused} refused; gallery {location}",
    )


def _tell(output: Output, report: EnrolmentReport) -> None:
    from facekd.gallery.enrolment import explain

    for photograph in report.enrolled:
        for warning in photograph.warnings:
            output.warn(f"{photograph.path}: {explain(warning)}")
    for refused in report.refused:
        output.say(f"refused {refused.path} ({refused.reason}): {refused.message}")


def register(app: typer.Typer) -> None:
    """Add `enroll` to the application."""
    app.command(epilog=EPILOG)(enroll)
