"""`facekd people`: list, show, rename, remove, export and import who is enrolled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from facekd.cli.gallery_access import GalleryOption, KeyFileOption, gallery_location, key_source, open_gallery
from facekd.cli.output import ExitCode, JsonOption, Output, ThreadsOption

people_app = typer.Typer(no_args_is_help=True, help="List, show, rename, remove, export and import people.")

PersonArgument = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The person's name.")]


@people_app.command("list")
def list_people(
    gallery: GalleryOption = None, key_file: KeyFileOption = None, json: JsonOption = False, threads: ThreadsOption = 0
) -> None:
    """List everybody with the number of templates."""
    with Output(json=json, threads=threads) as output, open_gallery(gallery, key_file) as opened:
        people = opened.people()
        table = Table("person", "templates", "since", box=None, pad_edge=False)
        for person in people:
            table.add_row(person.name, str(person.templates), person.created[:10])
        output.result({"people": [person.to_dict() for person in people]}, text=table if people else "nobody")


@people_app.command()
def show(
    name: PersonArgument,
    gallery: GalleryOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Show somebody's templates with their ids, which `people remove --template` takes."""
    with Output(json=json, threads=threads) as output, open_gallery(gallery, key_file) as opened:
        record = opened.record(name)
        table = Table("template", "since", "quality", "mask", "photographs", box=None, pad_edge=False)
        for template in record.templates:
            quality = "" if template.quality is None else f"{template.quality:.2f}"
            row = (template.created[:10], quality, template.mask or "", str(template.photographs))
            table.add_row(str(template.id), *row)
        for identifier in record.damaged:
            output.error(
                f"template {identifier} is damaged: remove it with --template {identifier}, or restore a backup",
                ExitCode.DAMAGED,
            )
        output.result(record.to_dict(), text=table if record.templates else "no template that opens")


@people_app.command()
def rename(
    name: PersonArgument,
    new_name: Annotated[str, typer.Argument(metavar="NEW", show_default=False, help="The new name.")],
    gallery: GalleryOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Give somebody another name."""
    with Output(json=json, threads=threads) as output, open_gallery(gallery, key_file) as opened:
        opened.rename(name, new_name)
        output.result({"renamed": name, "person": new_name}, text=f"{name} is now {new_name}")


@people_app.command()
def remove(
    name: PersonArgument,
    template: Annotated[
        list[int] | None,
        typer.Option("--template", metavar="ID", show_default=False, help="Only this template (may be repeated)."),
    ] = None,
    gallery: GalleryOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Remove somebody, or some templates, from every file of the gallery."""
    with Output(json=json, threads=threads) as output, open_gallery(gallery, key_file) as opened:
        removal = opened.remove_templates(name, template) if template else opened.remove(name)
        if not removal.erased:
            output.warn(
                "copies of its bytes may linger (large gallery, in use, or in Milvus): run `facekd gallery check` in a "
                "quiet hour; for Milvus see docs/milvus.md"
            )
        if removal.fused:
            output.warn(
                f"{removal.fused} templates of several photographs went as well, since they may have held what was "
                "removed: enrol those photographs again"
            )
        answer = {
            "removed": removal.person,
            "templates": removal.templates,
            "fused": removal.fused,
            "erased": removal.erased,
        }
        whole = f"{removal.person} is removed" if not template else f"removed from {removal.person}"
        output.result(answer, text=f"{whole}: {removal.templates} templates")


@people_app.command("export")
def export_people(
    path: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="The zip file to write.")],
    gallery: GalleryOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Write everybody to a zip file in an open format. It is not encrypted, even where the gallery is."""
    with Output(json=json, threads=threads) as output, open_gallery(gallery, key_file) as opened:
        count = opened.export(path)
        output.warn(f"{path} holds templates in the clear: they are biometric data, keep the file accordingly")
        output.result({"path": str(path), "templates": count}, text=f"{count} templates written to {path}")


@people_app.command("import")
def import_people(
    path: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="A zip file of `people export`.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Give people who are enrolled already what they lack.")
    ] = False,
    gallery: GalleryOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Read people from an export, all of them or none; a gallery that is not there is made."""
    from facekd.gallery import Gallery
    from facekd.gallery.exchange import read_export

    with Output(json=json, threads=threads) as output:
        table, _ = read_export(path)
        with Gallery.open(
            gallery_location(gallery), contract=table.contract, dimension=table.dimension, key=key_source(key_file)
        ) as opened:
            report = opened.import_(path, merge=merge)
        if not report.templates:
            output.at_least(ExitCode.ANSWERED)
            output.say("everything was there already")
        output.result(
            {
                "added": list(report.added),
                "merged": list(report.merged),
                "templates": report.templates,
                "present": report.present,
            },
            text=f"{len(report.added)} people added, {len(report.merged)} merged: {report.templates} templates, "
            f"{report.present} were there already",
        )


def register(app: typer.Typer) -> None:
    """Add the group `people` to the application."""
    app.add_typer(people_app, name="people")
