"""`facekd gallery`: check, back up, restore, encrypt, re-embed and audit a gallery."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from facekd.cli.gallery_access import GalleryOption, KeyFileOption, gallery_file, key_source, open_gallery
from facekd.cli.output import ExitCode, JsonOption, Output, ThreadsOption

gallery_app = typer.Typer(no_args_is_help=True, help="Check, back up, restore, encrypt and audit a gallery.")

HeadOption = Annotated[
    str | None,
    typer.Option("--seen", metavar="DIGEST", show_default=False, help="A head of the audit log noted earlier."),
]
NewKeyOption = Annotated[
    Path,
    typer.Option(
        "--new-key-file", metavar="FILE", show_default=False, help="The key to go on with; drawn and written if absent."
    ),
]


@gallery_app.command()
def check(
    gallery: GalleryOption = None,
    seen: HeadOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Look through every record, and finish erasing what was removed. Exit code 4: something is wrong."""
    from facekd.gallery.maintenance import check as check_gallery

    with Output(json=json, threads=threads) as output, open_gallery(gallery, key_file) as opened:
        health = check_gallery(opened, audit_head=seen)
        for problem in health.problems:
            output.error(problem, ExitCode.DAMAGED)
        if not health.erased:
            output.warn(
                "bytes of what was removed may linger while another process reads or writes: check again when it is "
                "done (Milvus drops them when it compacts)"
            )
        sealed = "encrypted" if health.encrypted else "not encrypted"
        verdict = "healthy" if not health.problems else f"{len(health.problems)} problems"
        output.result(
            {"path": opened.location, "healthy": not health.problems, **asdict(health)},
            text=f"{opened.location}: {verdict}; {health.people} people, {health.templates} templates of embedder "
            f"{health.contract}, {sealed}",
        )


@gallery_app.command()
def backup(
    path: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="The file to write.")],
    gallery: GalleryOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Copy the gallery as it is now, also while others use it. An encrypted one stays encrypted."""
    from facekd.gallery.copies import backup as backup_gallery

    with Output(json=json, threads=threads) as output, open_gallery(gallery, key_file) as opened:
        size = backup_gallery(opened, path)
        output.result({"path": str(path), "bytes": size}, text=f"backup of {size:,} bytes written to {path}")


@gallery_app.command()
def restore(
    path: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="A backup.")],
    gallery: GalleryOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Put a backup in the gallery's place, after checking it. What was changed since the backup is lost.

    A damaged gallery is kept beside it under another name. What is no gallery is left alone, and an encrypted gallery
    is not replaced by a backup that is not encrypted.
    """
    from facekd.gallery.copies import restore as restore_gallery

    with Output(json=json, threads=threads) as output:
        target = gallery_file(gallery, "a backup")
        restored = restore_gallery(path, target, key=key_source(key_file))
        if restored.damaged is not None:
            output.warn(f"the damaged gallery is kept as {restored.damaged}: it holds templates, delete it in time")
        sealed = "encrypted" if restored.encrypted else "not encrypted"
        output.result(
            {"path": str(target), **asdict(restored)},
            text=f"{target} is restored: {restored.people} people, {restored.templates} templates, {sealed}",
        )


@gallery_app.command("rotate-key")
def rotate_key(
    new_key_file: NewKeyOption,
    gallery: GalleryOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Seal the gallery under another key, or encrypt one that is not encrypted yet."""
    from facekd.gallery import Gallery
    from facekd.gallery.maintenance import is_encrypted
    from facekd.gallery.maintenance import rotate_key as rotate
    from facekd.gallery.sealing import key_from_file
    from facekd.gallery.sealing import new_key_file as draw_key

    with Output(json=json, threads=threads) as output:
        path = gallery_file(gallery, "encryption")
        old = key_source(key_file) if is_encrypted(path) else None
        with Gallery.open(path, create=False, key=old) as opened:
            new = key_from_file(new_key_file) if new_key_file.exists() else draw_key(new_key_file)
            erased = rotate(opened, new)
        if not erased:
            output.warn(
                "templates as they were before, in the clear or under the old key, may still be in its files, since "
                "another process reads or writes: run `facekd gallery check` with the new key when it is done"
            )
        output.warn(f"without {new_key_file} nobody can read the gallery any more: keep a copy elsewhere")
        output.result(
            {"path": str(path), "key_file": str(new_key_file), "erased": erased},
            text=f"{path} is sealed under {new_key_file}",
        )


@gallery_app.command()
def reembed(
    gallery: GalleryOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Make every template anew with today's embedder, from the kept crops."""
    from facekd.gallery.maintenance import reembed as reembed_gallery
    from facekd.recognition.embedder import Embedder

    with Output(json=json, threads=threads) as output:
        embedder = Embedder()
        with open_gallery(gallery, key_file) as opened:
            old = opened.contract
            count = 0
            if old != embedder.contract:
                count = reembed_gallery(
                    opened, embedder.embed, contract=embedder.contract, dimension=embedder.dimension
                )
        output.result(
            {"templates": count, "from": old, "to": embedder.contract},
            text=f"{count} templates made anew, embedder {embedder.contract}" if count else "nothing to do",
        )


@gallery_app.command()
def audit(
    gallery: GalleryOption = None,
    seen: HeadOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Print the audit log and verify its chain of hashes. Exit code 4: it was changed."""
    from facekd.gallery import audit as log

    with Output(json=json, threads=threads) as output, open_gallery(gallery, key_file) as opened:
        store = opened.file_store("the audit log")
        with store.reading():
            report = log.verify(store, seen)
            entries = log.entries(store)
        if report.problem:
            output.error(report.problem, ExitCode.DAMAGED)
        table = Table("number", "time", "action", "detail", box=None, pad_edge=False)
        for entry in entries:
            detail = ", ".join(f"{key} {value}" for key, value in entry.detail.items())
            table.add_row(str(entry.sequence), entry.time, entry.action, detail)
        output.result(
            {"intact": report.problem is None, "head": report.head, "entries": [asdict(entry) for entry in entries]},
            text=table,
        )
        output.say(f"head {report.head}: note it elsewhere, and check with --seen that the log still holds it")


@gallery_app.command("audit-templates")
def audit_templates(
    gallery: GalleryOption = None, key_file: KeyFileOption = None, json: JsonOption = False, threads: ThreadsOption = 0
) -> None:
    """Find templates unlike their owner's others, or like somebody else's. Exit code 1: there are some."""
    from facekd.gallery.outliers import audit_templates as audit_all

    with Output(json=json, threads=threads) as output, open_gallery(gallery, key_file) as opened:
        findings = audit_all(opened)
        table = Table("person", "template", "finding", "cosine", "others", box=None, pad_edge=False)
        for finding in findings:
            row = (str(finding.template), finding.kind, f"{finding.score:.3f}", ", ".join(finding.others))
            table.add_row(finding.person, *row)
        if findings:
            output.at_least(ExitCode.NO)
        output.result(
            {"findings": [finding.to_dict() for finding in findings]}, text=table if findings else "nothing to look at"
        )


def register(app: typer.Typer) -> None:
    """Add the group `gallery` to the application."""
    app.add_typer(gallery_app, name="gallery")
