"""`facekd verify`: are two photographs of the same person, or is somebody who they claim to be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facekd.cli.gallery_access import (
    CalibrationOption,
    FaceOption,
    GalleryOption,
    KeyFileOption,
    ThresholdOption,
    check_limits,
    load_calibration,
    open_with_pipeline,
    parse_face,
)
from facekd.cli.output import ExitCode, JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError, EnrolmentRefused, ImageError

if TYPE_CHECKING:
    from facekd.gallery.decision import Verification
    from facekd.pipeline import Face, FacePipeline

EPILOG = (
    "Examples: `facekd verify passport.jpg selfie.jpg` · `facekd verify --person Ada door.jpg --fmr 0.001`. "
    "Exit code 1: not the same person, or to be tried again."
)


def verify(
    photographs: Annotated[
        list[Path],
        typer.Argument(metavar="A [B]", show_default=False, help="Two photographs, or one together with --person."),
    ],
    person: Annotated[
        str | None, typer.Option("--person", metavar="NAME", show_default=False, help="Somebody of the gallery.")
    ] = None,
    gallery: GalleryOption = None,
    fmr: Annotated[
        float, typer.Option("--fmr", metavar="P", help="Share of different people who may pass as the same.")
    ] = 0.0001,
    threshold: ThresholdOption = None,
    face: FaceOption = None,
    calibration: CalibrationOption = None,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Compare two photographs, or one with a person of the gallery."""
    with Output(json=json, threads=threads) as output:
        if len(photographs) != (1 if person is not None else 2):
            raise ConfigError("name two photographs, or one photograph with --person NAME")
        if person is None and (gallery is not None or key_file is not None):
            raise ConfigError("--gallery and --key-file go with --person NAME, not with two photographs")
        check_limits(fmr, threshold)
        if person is not None:
            opened, pipeline = open_with_pipeline(gallery, key_file, calibration=calibration)
            with opened:
                probe = _face(pipeline, photographs[0], face)
                answer = opened.verify(person, probe, fmr=fmr, threshold=threshold)
        else:
            answer = _pair(photographs, face, fmr, threshold, calibration)
        if not answer.same:
            output.at_least(ExitCode.NO)
        output.result(answer.to_dict(), text=_words(answer))


def _pair(
    photographs: list[Path], face: str | None, fmr: float, threshold: float | None, calibration: Path | None
) -> Verification:
    from facekd.gallery.calibration import shipped_calibration
    from facekd.gallery.decision import compare
    from facekd.gallery.policy import is_masked
    from facekd.pipeline import FacePipeline
    from facekd.zoo import find_model

    contract = find_model("embedder").contract
    known = load_calibration(calibration) or shipped_calibration(contract)
    if known is not None and known.contract != contract:
        raise ConfigError(f"the calibration is of embedder {known.contract}, in use is {contract}: calibrate this one")
    pipeline = FacePipeline()
    one, other = (_face(pipeline, photograph, face) for photograph in photographs)
    masked = any(is_masked(face.mask.status) for face in (one, other))
    return compare(
        one.embedding,
        other.embedding,
        known,
        fmr=fmr,
        threshold=threshold,
        masked=masked,
        mask_score=min(one.mask.score, other.mask.score),
    )


def _face(pipeline: FacePipeline, photograph: Path, face: str | None) -> Face:
    from facekd.gallery.policy import EnrolmentPolicy

    try:
        return EnrolmentPolicy().choose(pipeline.analyze(photograph), parse_face(face))
    except EnrolmentRefused as error:  # nothing is enrolled here: a picture that cannot be answered is bad input
        raise ImageError(f"{photograph}: {error}") from error


def _words(answer: Verification) -> str:
    verdict = {"same": "the same person", "different": "not the same person"}.get(
        answer.outcome, f"try again ({answer.reason})"
    )
    error = "" if answer.fmr is None else f"; different people pass with {answer.fmr:.2g}"
    upper = "" if answer.fmr_upper is None else f", at most {answer.fmr_upper:.2g}"
    mark = " (extrapolated)" if answer.extrapolated and answer.fmr is not None else ""
    return f"{verdict}: score {answer.score:.3f}, threshold {answer.threshold:.3f}{error}{upper}{mark}"


def register(app: typer.Typer) -> None:
    """Add `verify` to the application."""
    app.command(epilog=EPILOG)(verify)
