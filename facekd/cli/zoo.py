"""`facekd zoo`: the shipped models, where they come from, what they were measured at, and whether they are intact."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from facekd.cli.output import ExitCode, JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError

if TYPE_CHECKING:
    from facekd.zoo import ModelRecord

zoo = typer.Typer(no_args_is_help=True, help="Show, verify and add models.")

# Of a calibration, in words; --json has the intervals, too.
_SHOWN = ("source", "people", "pairs", "score_threshold", "temperature", "thresholds")

ModelArgument = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", show_default=False, help="A name, a task, or an .onnx file; or all.")
]


@zoo.command(epilog="Examples: `facekd zoo show` · `facekd zoo show embedder` · `facekd zoo show --json`")
def show(model: ModelArgument = None, json: JsonOption = False, threads: ThreadsOption = 0) -> None:
    """Print recipe, data, date, digest, licence and measured figures of each model."""
    with Output(json=json, threads=threads) as output:
        defaults, records = _records(model)
        models = [_describe(record, record.name in defaults) for record in records]
        output.result({"models": models}, text=_table(models))


@zoo.command(epilog="Examples: `facekd zoo verify` · `facekd zoo verify detector --json`")
def verify(model: ModelArgument = None, json: JsonOption = False, threads: ThreadsOption = 0) -> None:
    """Compare every weights file with its SHA-256 and load it; exit code 4 when one is damaged or missing."""
    with Output(json=json, threads=threads) as output:
        from facekd.doctor import verify_models

        _, records = _records(model)
        answers = verify_models(records)
        for answer in answers:
            if not answer["verified"]:
                output.at_least(ExitCode.DAMAGED)
        lines = (f"{answer['name']:24} {answer.get('error', 'verified')}" for answer in answers)
        output.result({"models": answers}, text="\n".join(lines))


@zoo.command(
    epilog="Examples: `facekd zoo add runs/embedder-dense/best.onnx --name dense-resnet --calibration cal.toml` · "
    "`facekd zoo add best.onnx --name mine --zoo my-zoo --background --half`"
)
def add(
    weights: Annotated[Path, typer.Argument(help="An .onnx file with its record beside it, as training leaves it.")],
    name: Annotated[str, typer.Option("--name", help="What the model is called; one of that name is replaced.")],
    zoo: Annotated[
        Path | None,
        typer.Option("--zoo", metavar="DIR", help="A zoo folder, made if new; the one in use."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", metavar="FILE", help="What facekd calibrate --out FILE.toml wrote."),
    ] = None,
    card: Annotated[
        list[str] | None, typer.Option("--card", metavar="KEY=VALUE", help="A line of the model card; may be repeated.")
    ] = None,
    figures: Annotated[
        list[str] | None, typer.Option("--figure", metavar="NAME=NUMBER", help="A measured figure; may be repeated.")
    ] = None,
    background: Annotated[bool, typer.Option("--background", help="Do not make it the default of its task.")] = False,
    half: Annotated[
        bool, typer.Option("--half", help="Store the weights as float16: half the file, computed in float32 as before.")
    ] = False,
    json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Take trained weights into a zoo: copied, digested, recorded in its manifest."""
    with Output(json=json, threads=threads) as output:
        from facekd.zoo import find_model, zoo_folder
        from facekd.zoo.writing import add_model, read_calibration

        values: dict[str, Any] = _pairs(card or (), "--card")
        if figures:
            values["figures"] = {key: _number(key, text) for key, text in _pairs(figures, "--figure").items()}
        record = add_model(
            zoo or zoo_folder(),
            find_model(weights),
            name,
            card=values,
            calibration=read_calibration(calibration) if calibration else None,
            default=not background,
            change=_halving() if half else None,
        )
        output.result(_describe(record, not background), text=f"{record.path}\ncontract {record.contract}")


def _halving() -> Callable[[bytes], bytes]:
    from facekd.engine.half_storage import halve_weights  # wants onnx, of the extra train

    return halve_weights


def _pairs(texts: Iterable[str], option: str) -> dict[str, Any]:
    pairs = [text.partition("=") for text in texts]
    for key, separator, _ in pairs:
        if not separator or not key:
            raise ConfigError(f"{option} wants KEY=VALUE, got {key!r}")
    return {key: value for key, _, value in pairs}


def _number(key: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ConfigError(f"--figure {key} wants a number, got {text!r}") from error
    if not math.isfinite(number):
        raise ConfigError(f"--figure {key} wants a finite number, got {text!r}")
    return number


def _records(model: str | None) -> tuple[set[str], list[ModelRecord]]:
    """Names of the default models, and the records asked for."""
    from facekd.zoo import find_model, load_manifest

    manifest = load_manifest()
    records = [find_model(model)] if model is not None else list(manifest.models.values())
    return set(manifest.defaults.values()), records


def _describe(record: ModelRecord, default: bool) -> dict[str, Any]:
    size = record.path.stat().st_size if record.path.is_file() else None
    return {**record.model_dump(mode="json"), "contract": record.contract, "bytes": size, "default": default}


def _table(models: list[dict[str, Any]]) -> Table:
    """One block of lines a model, since the texts are too long for columns."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for model in models:
        card, calibration = model["card"], model["calibration"] or {}
        size = "missing" if model["bytes"] is None else f"{model['bytes'] / 1e6:.2f} MB"
        rows = {
            model["name"]: f"{model['task']}{' (default)' if model['default'] else ''}",
            "  file": f"{model['file']}, {size}",
            "  sha256": model["sha256"],
            "  contract": model["contract"],
            "  size": f"{card['parameters']:,} parameters, {card['macs'] / 1e6:,.0f} M multiply-adds",
            "  recipe": card["recipe"],
            "  data": card["data"],
            "  date": card["date"],
            "  licence": card["licence"],
            "  figures": ", ".join(f"{name} {value:g}" for name, value in card["figures"].items()),
            "  calibration": ", ".join(f"{key} {_short(calibration[key])}" for key in _SHOWN if calibration.get(key)),
            "  masked": _short((calibration.get("masked") or {}).get("thresholds", {})),
            "  notes": card["notes"],
        }
        for heading, text in rows.items():
            if text:
                table.add_row(heading, text)
        table.add_row()
    return table


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_short(item)}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def register(app: typer.Typer) -> None:
    """Add `zoo show`, `zoo verify` and `zoo add` to the application."""
    app.add_typer(zoo, name="zoo")
