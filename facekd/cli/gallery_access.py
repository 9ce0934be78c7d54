"""The options of every command that uses a gallery, and how it is opened with the model that made it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from facekd.errors import ConfigError

if TYPE_CHECKING:
    from facekd.gallery import Calibration, EnrolmentPolicy, Gallery
    from facekd.gallery.sealing import KeySource
    from facekd.pipeline import FacePipeline

GalleryOption = Annotated[
    str | None,
    typer.Option(
        "--gallery",
        metavar="PATH",
        show_default=False,
        help="The gallery's file, or its address in Milvus (docs/milvus.md); default $FACEKD_GALLERY or your own.",
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        show_default=False,
        help="The 256-bit key of an encrypted gallery; default the variable FACEKD_GALLERY_KEY. "
        "With it, a new gallery is made encrypted.",
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        show_default=False,
        help="Thresholds by error rate, made by `facekd calibrate`; default those of the model.",
    ),
]
FaceOption = Annotated[
    str | None,
    typer.Option(
        "--face",
        metavar="largest|N",
        show_default=False,
        help="Which face is meant in a photograph of several: the largest, or the N-th from the left.",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option("--threshold", metavar="COSINE", show_default=False, help="A cosine set by hand instead."),
]


def gallery_location(gallery: str | None) -> str:
    """Where the gallery is, or is to be; the folder of the default file is made."""
    from facekd.gallery.location import default_location, parse_location

    if gallery is not None:
        return gallery
    location = default_location()
    path = parse_location(location)
    if isinstance(path, Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the folder {path.parent} cannot be made: {error.strerror or error}; use --gallery"
            ) from error
    return location


def gallery_file(gallery: str | None, purpose: str) -> Path:
    """The gallery's file, for what there is only for files.

    Raises:
        ConfigError: the gallery is an address in Milvus.
    """
    from facekd.gallery.location import parse_location

    path = parse_location(gallery_location(gallery))
    if not isinstance(path, Path):
        raise ConfigError(f"{purpose} is for galleries in a file, and {path} lies in Milvus: see docs/milvus.md")
    return path


def key_source(key_file: Path | None) -> KeySource | None:
    """The key that was named, by a file or by the environment."""
    from facekd.gallery.sealing import key_from_environment, key_from_file

    return key_from_file(key_file) if key_file is not None else key_from_environment()


def open_gallery(gallery: str | None, key_file: Path | None, calibration: Path | None = None) -> Gallery:
    """Open a gallery that exists, whatever model made it."""
    from facekd.gallery import Gallery

    return Gallery.open(
        gallery_location(gallery), create=False, key=key_source(key_file), calibration=load_calibration(calibration)
    )


def open_with_pipeline(
    gallery: str | None,
    key_file: Path | None,
    *,
    calibration: Path | None = None,
    create: bool = False,
    policy: EnrolmentPolicy | None = None,
) -> tuple[Gallery, FacePipeline]:
    """Open a gallery and the pipeline whose embedder made it, be it not today's default.

    Raises:
        GalleryError: the gallery is of a model that is not in the zoo.
    """
    from facekd.gallery import Gallery
    from facekd.gallery.index import use_threads
    from facekd.gallery.records import NoGallery
    from facekd.pipeline import FacePipeline
    from facekd.recognition.embedder import Embedder
    from facekd.runtime import default_threads
    from facekd.zoo import find_model, load_manifest

    location, key = gallery_location(gallery), key_source(key_file)
    record = find_model("embedder")
    try:
        with Gallery.open(location, create=False, key=key) as existing:
            made_by = [
                model
                for model in load_manifest().models.values()
                if model.task == "embedder" and model.contract == existing.contract
            ]
            dimension = existing.dimension
        # Of no model that we have: opening it below says so.
        chosen = made_by[0] if made_by else record
    except NoGallery:
        chosen, dimension = record, 0
    embedder = Embedder(chosen)
    use_threads(default_threads())
    opened = Gallery.open(
        location,
        contract=chosen.contract,
        create=create,
        key=key,
        calibration=load_calibration(calibration),
        policy=policy,
        dimension=dimension or embedder.dimension,
    )
    return opened, FacePipeline(embedder=embedder)


def check_limits(error_rate: float, threshold: float | None) -> None:
    """Refuse what is no error rate or no cosine at once, not with the first face that it would be asked for.

    Raises:
        ConfigError: the rate is not between 0 and 1, or the threshold is not between -1 and 1.
    """
    from facekd.gallery.decision import check_error_rate, limit_for

    if threshold is None:
        check_error_rate(error_rate)
    else:
        limit_for(None, error_rate, 1, threshold)


def load_calibration(path: Path | None) -> Calibration | None:
    """The calibration of a file, or None for the model's own."""
    from facekd.gallery import Calibration

    return None if path is None else Calibration.load(path)


def parse_face(text: str | None) -> int | Literal["largest"] | None:
    """What ``--face`` says.

    Raises:
        ConfigError: it is neither ``largest`` nor a number from 1.
    """
    if text is None or text == "largest":
        return "largest" if text else None
    if text.isdigit() and int(text) >= 1:
        return int(text)
    raise ConfigError(f"--face takes largest or a number from 1, got {text!r}")
