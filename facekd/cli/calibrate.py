"""`facekd calibrate`: which cosine has which false-match rate, from labelled faces or from a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from facekd.cli.gallery_access import GalleryOption, KeyFileOption
from facekd.cli.output import JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError
from facekd.whole_files import write_whole

if TYPE_CHECKING:
    from facekd.gallery.calibration import Calibration
    from facekd.gallery.calibration_sources import LeftOut
    from facekd.pipeline import FacePipeline
    from facekd.recognition.calibrate import FaceSet
    from facekd.recognition.embedder import Embedder

SUFFIXES = (".json", ".toml")
TABLE = "faces.csv"
EPILOG = (
    "Examples: `facekd calibrate crops/ --out calibration.json` · `facekd calibrate people/ --impostors street/ --plot "
    "det.png` · `facekd calibrate --gallery people.db --probes door/ --out calibration.json`"
)


def calibrate(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            exists=True,
            file_okay=False,
            show_default=False,
            help="Labelled faces: crops with faces.csv, or photographs in a folder for each person.",
        ),
    ] = None,
    gallery: GalleryOption = None,
    probes: Annotated[
        Path | None,
        typer.Option(
            "--probes",
            metavar="DIR",
            exists=True,
            file_okay=False,
            show_default=False,
            help="Photographs in a folder for each person, compared with --gallery; who is not in it is an impostor.",
        ),
    ] = None,
    impostors: Annotated[
        Path | None,
        typer.Option(
            "--impostors",
            metavar="DIR",
            exists=True,
            file_okay=False,
            show_default=False,
            help="Photographs, or crops with faces.csv, of people who are none of the others, without names.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            dir_okay=False,
            help=".json: the artefact that galleries take; .toml: the lines of a model's record in the zoo.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            dir_okay=False,
            help="Save score distributions and DET as a picture (extra bench).",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Of crops: never the part that figures come from.")
    ] = "val",
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="Embedder; with --gallery the one that made it.")
    ] = "embedder",
    masked: Annotated[
        bool,
        typer.Option("--masked/--no-masked", help="Also for masked probes; drawn masks where there are no real ones."),
    ] = True,
    replicates: Annotated[int, typer.Option("--replicates", min=20, help="Bootstrap over people.")] = 1000,
    key_file: KeyFileOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Find the cosine of each false-match rate, with intervals over people.

    Every pair of different people weighs alike, however many photographs there are of them. Rates that would rest on
    fewer than ten false matches of equal weight are not measured but extrapolated, and marked so.
    """
    with Output(json=json, threads=threads) as output:
        if out is not None and out.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"Cannot write {out}: the suffix must be one of {', '.join(SUFFIXES)}")
        for target in (out, plot):
            if target is not None and not target.absolute().parent.is_dir():
                raise ConfigError(f"cannot write {target}: there is no folder {target.parent}")
        if (folder is None) == (gallery is None):
            raise ConfigError("name either a folder of labelled faces, or --gallery PATH")
        if probes is not None and gallery is None:
            raise ConfigError(
                "--probes are compared with --gallery PATH; of a folder, every face is reference and probe"
            )
        from facekd.gallery.calibration import from_curves, to_zoo
        from facekd.recognition.calibrate import calibrate_faces, most_alike, screen_strangers
        from facekd.zoo.writing import calibration_text

        faces = _Faces(output, model, split, masked)
        known = faces.of_gallery(gallery, key_file) if folder is None else faces.labelled(folder)
        seen = None if probes is None else faces.labelled(probes)
        strangers = None if impostors is None else faces.strangers(impostors)
        if strangers is not None:
            strangers, copies = screen_strangers(known, strangers)
            if copies:
                output.say(f"{len(copies)} photographs of impostors left out as copies: {', '.join(copies[:5])} …")
            for file, person, cosine in most_alike(known, strangers):
                output.say(f"most like somebody known: {file}, {person}, cosine {cosine:.3f}; is it another person?")
        curves = calibrate_faces(known, seen, strangers, replicates)
        places = [
            str(gallery) if folder is None else f"{folder.resolve().name}",
            *(p.name for p in (probes, impostors) if p),
        ]
        source = ", ".join(places) + (f", split {split}" if folder and (folder / TABLE).exists() else "")
        artefact = from_curves(faces.contract, source, curves)
        output.result(artefact.model_dump(mode="json"), text=_table(artefact))
        if out is not None:
            if out.suffix.lower() == ".toml":
                write_whole(out, calibration_text(faces.name, to_zoo(artefact)))
            else:
                artefact.save(out)
            output.say(f"the calibration is in {out}")
        if plot is not None:
            from facekd.bench.calibration_plot import plot_calibration

            plot_calibration(plot, artefact)
            output.say(f"score distributions and DET are in {plot}")


class _Faces:
    """Reads faces from where the user has them, and loads only the networks that this takes."""

    def __init__(self, output: Output, model: str, split: str, masked: bool) -> None:
        self._output = output
        self._model = model
        self._split = split
        self._masked = masked
        self._embedder: Embedder | None = None
        self._pipeline: FacePipeline | None = None

    @property
    def embedder(self) -> Embedder:
        from facekd.recognition.embedder import Embedder

        self._embedder = self._embedder or Embedder(self._model)
        return self._embedder

    @property
    def contract(self) -> str:
        return self.embedder.contract

    @property
    def name(self) -> str:
        return self.embedder.record.name

    def _looking(self) -> FacePipeline:
        from facekd.pipeline import FacePipeline

        self._pipeline = self._pipeline or FacePipeline(embedder=self.embedder)
        return self._pipeline

    def labelled(self, folder: Path) -> FaceSet:
        if (folder / TABLE).exists():
            from facekd.recognition.calibrate import read_crops

            return read_crops(folder, self._split, self.embedder, self._masked, self._output.progress)
        from facekd.gallery.calibration_sources import people_in_photographs

        return self._told(*people_in_photographs(folder, self._looking(), self._masked, self._output.progress))

    def strangers(self, folder: Path) -> FaceSet:
        if (folder / TABLE).exists():
            from facekd.recognition.calibrate import read_crops

            return read_crops(folder, self._split, self.embedder, self._masked, self._output.progress, labelled=False)
        from facekd.gallery.calibration_sources import strangers_in_photographs

        return self._told(*strangers_in_photographs(folder, self._looking(), self._masked, self._output.progress))

    def of_gallery(self, gallery: str | None, key_file: Path | None) -> FaceSet:
        from facekd.cli.gallery_access import open_with_pipeline
        from facekd.gallery.calibration_sources import people_of_gallery

        opened, self._pipeline = open_with_pipeline(gallery, key_file)
        self._embedder = self._pipeline.embedder
        with opened:
            return people_of_gallery(opened)

    def _told(self, faces: FaceSet, left_out: LeftOut) -> FaceSet:
        for file, reason in left_out:
            self._output.say(f"left out: {file}: {reason}")
        return faces


def _label(rate: float) -> str:
    from facekd.evaluation.verification import rate_label

    return rate_label(rate)


def _table(artefact: Calibration) -> Table:
    """Measured rates, then those beyond the data: extrapolated, with the rule of three as their least upper bound."""
    from facekd.evaluation.calibrate import CALIBRATION_RATES

    table = Table("probes", "FMR", "95 % over people", "threshold", "FNMR", "pairs of people", "")
    notes = []
    for kind, curve in (("unmasked", artefact.unmasked), ("masked", artefact.masked)):
        if curve is None:
            continue
        masked = kind == "masked"
        for point in curve.points:
            few = artefact.rate(point.threshold, masked=masked).extrapolated
            table.add_row(
                kind,
                _label(point.fmr),
                f"{point.fmr_lower:.1e} to {point.fmr_upper:.1e}",
                f"{point.threshold:.4f}",
                "" if point.fnmr is None else f"{point.fnmr:.4f}",
                str(point.people_pairs),
                "few people: extrapolated" if few else "",
            )
        for rate in (rate for rate in CALIBRATION_RATES if rate < 0.99 * curve.points[-1].fmr):
            threshold = artefact.threshold(rate, masked=masked)
            upper = artefact.rate(threshold, masked=masked).upper
            at_most = "" if upper is None else f"at most {upper:.1e}"
            table.add_row(kind, _label(rate), at_most, f"{threshold:.4f}", "", "", "extrapolated")
        notes.append(
            f"{kind}: {curve.people} people, {curve.pairs} non-mated comparisons, worth {curve.effective} of equal "
            f"weight; without a false match up to {curve.least_upper_bound:.1e} would be possible (rule of three)"
        )
    table.caption = "; ".join(notes)
    return table


def register(app: typer.Typer) -> None:
    """Add `calibrate` to the application."""
    app.command(epilog=EPILOG)(calibrate)
