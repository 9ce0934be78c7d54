"""`facekd bench`: how long each stage takes, and how we compare with peers in the same run."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from facekd.cli import bench_video
from facekd.cli.models import RefinerModel, open_detector
from facekd.cli.output import JsonOption, Output
from facekd.errors import ConfigError
from facekd.whole_files import write_whole

if TYPE_CHECKING:
    from facekd.bench.gallery import GalleryTimes
    from facekd.bench.timing import Timing

bench = typer.Typer(no_args_is_help=True, help="Measure speed, and peers beside it.")

Rounds = Annotated[int, typer.Option("--rounds", min=1, metavar="N", help="Medians are over so many rounds.")]
OneThread = Annotated[
    int, typer.Option("--threads", min=0, metavar="N", help="Processor threads; 0 lets facekd choose.")
]
PeerModels = Annotated[
    Path | None, typer.Option("--peer-models", metavar="DIR", help="Folder with the peers' ONNX files.")
]


@bench.command(
    epilog="Examples: `facekd bench speed` · `facekd bench speed --peer yunet --peer sface --peer-models DIR`"
)
def speed(
    peer: Annotated[
        list[str] | None, typer.Option("--peer", metavar="NAME", help="yunet or sface; repeatable.")
    ] = None,
    peer_models: PeerModels = None,
    rounds: Rounds = 50,
    json: JsonOption = False,
    threads: OneThread = 1,
) -> None:
    """Median time of each stage: one photograph of 640x480 with one face, one thread unless told otherwise."""
    with Output(json=json, threads=threads) as output:
        from facekd.bench.speed import bench_speed
        from facekd.pipeline import FacePipeline

        report = bench_speed(FacePipeline(), tuple(peer or ()), peer_models, rounds, output.progress)
        answer = {
            "stages": {name: asdict(timing) for name, timing in report.times.items()},
            "faces": report.faces,
            "photograph": "640x480",
            "threads": threads,
        }
        if report.faces != 1:
            output.warn(f"the detector found {report.faces} faces in a photograph of one: 'whole' is not comparable")
        output.result(answer, text=_times_table(report.times, f"{threads or 'automatic'} thread(s), {rounds} rounds"))


@bench.command(epilog="Example: `facekd bench detection detection/ --peer yunet --peer-models DIR`")
def detection(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", exists=True, file_okay=False, help="Labelled photographs; without: times only."
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Which part of them.")] = "test",
    wider: Annotated[
        Path | None, typer.Option("--wider", metavar="IMAGES", exists=True, help="WIDER FACE's photographs.")
    ] = None,
    wider_labels: Annotated[
        Path | None, typer.Option("--labels", metavar="FILE|DIR", exists=True, help="Labels for --wider.")
    ] = None,
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Our detector.")] = "detector",
    refiner: RefinerModel = "auto",
    peer: Annotated[str | None, typer.Option("--peer", metavar="NAME", help="yunet.")] = None,
    peer_models: PeerModels = None,
    rounds: Rounds = 30,
    json: JsonOption = False,
    threads: OneThread = 1,
) -> None:
    """Our detector, and YuNet beside it: time at 640x640, and figures on the same photographs.

    On DIR YuNet sees photographs with a long side of 640 px, ours their own size; on WIDER FACE both their own size.
    """
    with Output(json=json, threads=threads) as output:
        from facekd.bench.detection import compare_detectors, compare_on_wider, open_yunet, time_detectors

        if (wider is None) != (wider_labels is None):
            raise ConfigError("--wider IMAGES and --labels FILE|DIR belong together")
        ours = open_detector(model, refiner)
        times = time_detectors(ours, peer, peer_models, rounds, output.progress)
        yunet = open_yunet(peer, peer_models) if peer is not None else None
        answer: dict[str, Any] = {"times": {name: asdict(timing) for name, timing in times.items()}, "threads": threads}
        answer["refiner"] = ours.refiner.record.name if ours.refiner else None
        if folder is not None:
            detectors: dict[str, Any] = {"ours": (ours, ours.score_threshold, None)}
            if yunet is not None:
                detectors["yunet"] = (yunet, yunet.score_threshold, 640)
            answer["figures"] = compare_detectors(folder, split, detectors, output.progress)
        if wider is not None and wider_labels is not None:
            both: dict[str, Any] = {"ours": ours} if yunet is None else {"ours": ours, "yunet": yunet}
            answer["wider"] = compare_on_wider(wider, wider_labels, both, output.progress)
        output.result(answer, text=_detection_table(answer, times))


@bench.command(epilog="Example: `facekd bench gallery --sizes 10000,100000,1000000`")
def gallery(
    sizes: Annotated[str, typer.Option("--sizes", metavar="N,…", help="Numbers of templates.")] = "1000,10000,100000",
    rounds: Rounds = 15,
    probes: Annotated[
        int, typer.Option("--probes", min=1, metavar="N", help="Mated ones, and as many strangers, for the recall.")
    ] = 1000,
    json: JsonOption = False,
    threads: OneThread = 1,
) -> None:
    """Exact search against the index that facekd chooses, as a gallery grows: recall, memory, times; synthetic people.

    A million templates need 5 GB of memory and 5 GB of disk.
    """
    with Output(json=json, threads=threads) as output:
        numbers = _sizes(sizes)
        import faiss

        from facekd.bench.gallery import bench_gallery

        if threads:
            faiss.omp_set_num_threads(threads)
        times = bench_gallery(numbers, rounds=rounds, probes=probes, progress=output.progress)
        output.result({"galleries": [asdict(entry) for entry in times], "threads": threads}, text=_gallery_table(times))


@bench.command(epilog="Example: `facekd bench indexes --size 100000`")
def indexes(
    size: Annotated[int, typer.Option("--size", min=20_000, metavar="N", help="Number of templates.")] = 100_000,
    probes: Annotated[
        int, typer.Option("--probes", min=1, metavar="N", help="Mated ones, and as many strangers.")
    ] = 500,
    shortlist: Annotated[
        int, typer.Option("--shortlist", min=1, metavar="N", help="Templates that each way may name.")
    ] = 64,
    threads: OneThread = 1,
    json: JsonOption = False,
) -> None:
    """Ways to search a large gallery side by side: where the choice of `bench gallery` comes from."""
    with Output(json=json, threads=threads) as output:
        import faiss

        from facekd.bench.indexes import compare_indexes

        if threads:
            faiss.omp_set_num_threads(threads)
        rows, axes = compare_indexes(size, probes, shortlist, output.progress)
        table = Table("what is looked at", "bytes each", "ms a probe", "found: mated", "strangers")
        for row in rows:
            figures = (f"{row.bytes_each:.0f}", f"{row.ms:.2f}", f"{row.found_mated:.4f}", f"{row.found_strangers:.4f}")
            table.add_row(row.name, *figures)
        answer = {"indexes": [asdict(row) for row in rows], "templates": size, "probes": probes, "axes": axes}
        output.result({**answer, "shortlist": shortlist}, text=table)


@bench.command(epilog="Example: `facekd bench mask mask/ --model teacher=teacher.onnx --model distilled=mask`")
def mask(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Aligned crops with mask.csv.")
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "--model", metavar="NAME=MODEL", help="A row: a file, or a name of the zoo; the first is the yardstick."
        ),
    ],
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Which part: train, val or test.")] = "test",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Save accuracy against time as a picture.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Save the table for a page of documentation.")
    ] = None,
    rounds: Rounds = 50,
    json: JsonOption = False,
    threads: OneThread = 1,
) -> None:
    """Mask heads side by side: size, memory, time and figures, one judge on the same crops in one run."""
    with Output(json=json, threads=threads) as output:
        from facekd.bench import mask as heads

        models = _named_models(model)
        rows = heads.compare_mask_heads(models, folder, split, rounds, threads, output.progress)
        text = heads.as_markdown(rows, split, threads)
        if plot is not None:
            heads.plot(rows, split, plot)
        if markdown is not None:
            words = " ".join(f"--model {shlex.quote(f'{name}=MODEL')}" for name in models)
            write_whole(markdown, f"    facekd bench mask MASK {words}\n\n{text}")
        output.result({"models": heads.as_data(rows), "split": split, "threads": threads, "rounds": rounds}, text=text)


def _named_models(items: list[str]) -> dict[str, str]:
    models: dict[str, str] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name or not value or name in models:
            raise ConfigError(f"--model wants NAME=MODEL, each name once, got {item!r}")
        models[name] = value
    return models


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--sizes takes numbers with commas between, such as 1000,10000, got {text!r}") from error
    if min(sizes) < 200:
        raise ConfigError(f"--sizes: galleries of fewer than 200 templates show nothing, got {text!r}")
    return sizes


def _gallery_table(times: list[GalleryTimes]) -> Table:
    names = ("memory MB", "open ms", "reopen ms", "search ms", "in batches", "enrol ms", "remove ms")
    table = Table("templates", "index", "same first: mated", "strangers", *names, "limit ms")
    for entry in times:
        recalls = (f"{entry.recall_mated:.4f}", f"{entry.recall_strangers:.4f}")
        for name, index in (("exact", entry.exact), ("chosen", entry.chosen)):
            values = (
                index.memory_mb,
                index.open_ms,
                index.reopen_ms,
                index.search_ms,
                index.batch_search_ms,
                index.enrol_ms,
                index.remove_ms,
            )
            exact = name == "exact"
            table.add_row(
                f"{entry.templates:,}",
                name,
                *(("", "") if exact else recalls),
                *("" if value is None else f"{value:,.1f}" for value in values),
                f"{entry.memory_limit_ms:.1f}" if exact else "",
            )
    return table


def _times_table(times: dict[str, Timing], caption: str) -> Table:
    table = Table("stage", "median ms", "10 %", "90 %", caption=caption)
    for name, timing in times.items():
        table.add_row(name, f"{timing.median_ms:.2f}", f"{timing.low_ms:.2f}", f"{timing.high_ms:.2f}")
    return table


def _detection_table(answer: dict[str, Any], times: dict[str, Timing]) -> Table:
    table = Table("figure", *(name for name in times))
    table.add_row("ms at 640x640", *(f"{timing.median_ms:.1f}" for timing in times.values()))
    rows = {
        "AP": "ap",
        "recall at precision 0.90": "recall_at_precision_0.90",
        "recall at 0.1 FPPI": "recall_at_fppi_0.1",
    }
    for part, keys in (("figures", rows), ("wider", {f"WIDER {name}": name for name in ("easy", "medium", "hard")})):
        if part in answer:
            for label, key in keys.items():
                values = (answer[part].get(name) for name in times)
                table.add_row(label, *(f"{value[key]:.4f}" if value else "" for value in values))
    return table


bench_video.register(bench)  # once: an application made again would add it again


def register(app: typer.Typer) -> None:
    """Add `bench …` to the application."""
    app.add_typer(bench, name="bench")
