"""`facekd doctor`: is everything in order, and what is not protected."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from facekd.cli.gallery_access import KeyFileOption, key_source
from facekd.cli.output import ExitCode, JsonOption, Output, ThreadsOption

GalleryOption = Annotated[
    str | None,
    typer.Option("--gallery", metavar="PATH", help="The gallery to look at; by default $FACEKD_GALLERY or your own."),
]


def doctor(
    gallery: GalleryOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Print versions, verify the models, check the gallery, and say what is not protected.

    Exit code 4 when a model or the gallery is damaged.
    """
    from facekd.doctor import examine
    from facekd.gallery.location import default_location

    with Output(json=json, threads=threads) as output:
        location = gallery or default_location()
        report = examine(location, must_exist=gallery is not None, key=key_source(key_file))
        if report["problems"]:
            output.at_least(ExitCode.DAMAGED)
        output.result(report, text=_text(report, location))


def _text(report: dict[str, Any], location: str) -> str:
    machine, health = report["machine"], report["gallery"]
    lines = [f"machine      {machine['system']}, {machine['cores']} cores"]
    versions = [f"{name} {version or 'not installed'}" for name, version in report["versions"].items()]
    lines += [_row("versions", index, version) for index, version in enumerate(versions)]
    for index, model in enumerate(report["models"]):
        lines.append(_row("models", index, f"{model['name']}: {'verified' if model['verified'] else 'DAMAGED'}"))
    if health is None:
        lines.append(f"gallery      none at {location}")
    elif "people" in health:
        sealed = "encrypted" if health["encrypted"] else "not encrypted"
        lines.append(f"gallery      {location}: {health['people']} people, {health['templates']} templates, {sealed}")
    lines += [_row("beware", index, words) for index, words in enumerate(report["not_protected"])]
    lines += [_row("PROBLEM", index, words) for index, words in enumerate(report["problems"])]
    return "\n".join([*lines, "" if report["problems"] else "everything is in order"]).rstrip()


def _row(heading: str, index: int, text: str) -> str:
    return f"{heading if index == 0 else '':13}{text}"


def register(app: typer.Typer) -> None:
    """Add `doctor` to the application."""
    app.command(epilog="Examples: `facekd doctor` · `facekd doctor --gallery people.db --json`")(doctor)
