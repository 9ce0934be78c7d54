"""What `detect` and `identify` are pointed at: pictures, folders of pictures, videos, cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from facekd.cli.output import Output
from facekd.errors import ImageError

SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE|FOLDER|VIDEO|CAMERA...",
        show_default=False,
        help="Pictures, folders (searched with their subfolders), video files, or cameras: 0, /dev/video0, rtsp://…",
    ),
]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to answer for.

    Attributes:
        path: where it is.
        relative: its place below the folder that the user named; the bare file name for a picture named itself.
    """

    path: Path
    relative: Path


def sort_sources(sources: Sequence[str], output: Output) -> tuple[list[Picture], list[str], list[dict[str, str]]]:
    """Sort what the user named into pictures and videos; what is neither is reported on the way.

    Returns:
        Pictures, video sources, and an entry for the JSON answer for each source that does not exist or is empty.
    """
    from facekd.images import list_images
    from facekd.video import display_name, is_live, is_video

    pictures: list[Picture] = []
    videos: list[str] = []
    failures: list[dict[str, str]] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            try:
                found = list_images(path)
            except ImageError as error:  # the other sources are answered all the same
                failures.append(output.failed(source, error))
                continue
            pictures += [Picture(image, image.relative_to(path)) for image in found]
            if not found:
                failures.append(output.failed(source, ImageError(f"no picture in the folder {source}")))
        elif path.is_file() and not is_video(source):
            pictures.append(Picture(path, Path(path.name)))
        elif is_video(source) and (path.exists() or is_live(source)):
            videos.append(source)
        else:
            name = display_name(source)  # of a kind of stream that is not known, the password stays unsaid, too
            failures.append(output.failed(name, ImageError(f"no such file or folder: {name}")))
    return pictures, videos, failures
