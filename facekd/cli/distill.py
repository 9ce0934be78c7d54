"""`facekd distill …`: compare ways to teach a small network."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from facekd.cli.output import JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError
from facekd.whole_files import write_whole

if TYPE_CHECKING:
    from facekd.bench.costs import Cost
    from facekd.distill.comparison import Comparison
    from facekd.distill.outcome import Outcome
    from facekd.distill.stages import Stage

app = typer.Typer(name="distill", no_args_is_help=True, help="Compare ways to teach a small network by a large one.")

ANSWERS_GB = 2.0
ABSOLUTE = r"(?<![\w.])/(?:[^/\s\"',]+/)*"  # folders of this machine


@app.command("compare")
def compare(
    recipes: Annotated[
        list[str], typer.Argument(metavar="RECIPE...", help="Comparisons: TOML files or packaged names.")
    ],
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="DIR", help="A folder of training data; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Receives the runs, tables and plots.")] = Path(
        "runs/compare"
    ),
    teacher: Annotated[
        list[str] | None, typer.Option("--teacher", metavar="NAME=FILE", help="The file of a teacher; may be repeated.")
    ] = None,
    lfw: Annotated[
        Path | None, typer.Option("--lfw", metavar="DIR", help="Judge embedders by LFW, too: a folder with pairs.txt.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one value of the training recipe.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ROW", help="Train this row alone; may be repeated.")
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Train nothing: the table of what is finished so far.")
    ] = False,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Save the tables, with their commands, for a page."),
    ] = None,
    answers_gb: Annotated[
        float,
        typer.Option("--answers-gb", min=0, metavar="N", help="Disk to keep teachers' answers on; 0 asks them anew."),
    ] = ANSWERS_GB,
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Train one student with and without each method, over several seeds, and print the table.

    What the folder holds already is not trained again, so a comparison that was stopped goes on. The same command
    started several times shares the runs among the processes.

    Examples:

        facekd distill compare compare-mask --data mask --teacher large=runs/mask-teacher/best.onnx

        facekd distill compare compare-mask --data mask --report-only
    """
    with Output(json=json, threads=threads) as output:
        from facekd.distill.compare import compare as run  # torch: only when something is trained
        from facekd.distill.comparison import Comparison
        from facekd.distill.report import as_data, as_markdown, plot
        from facekd.distill.stages import open_stage
        from facekd.engine.settings import find_recipe, parse_recipe, read_toml, set_value

        files = dict(_named_file(item) for item in teacher or ())
        answers, texts = [], []
        for name in recipes:
            path = find_recipe(name)
            comparison = read_toml(path)
            checked = parse_recipe(Comparison, comparison, path)
            checked = parse_recipe(Comparison, comparison | {"set": [*checked.set, *(settings or ())]}, path)
            shared = find_recipe(checked.recipe)
            table = read_toml(shared, checked.set)
            set_value(table, "data.folders", [str(folder) for folder in data or ()], shared.stem)
            if threads:
                set_value(table, "training.threads", threads, shared.stem)
            output.say(f"{path.stem}: reading the data")
            stage = open_stage(table, shared, lfw)
            folder = out / path.stem
            wanted = {key: value for key, value in files.items() if key in checked.teachers}
            outcome = run(
                checked,
                stage,
                folder,
                wanted,
                output.say,
                shared=table,
                only=only or (),
                train=not report_only,
                answers_bytes=int(answers_gb * 1e9),
            )
            costs = _costs(outcome, checked, wanted, stage)
            text = as_markdown(outcome, costs, _command(path.stem, checked, settings or (), lfw is not None))
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "table.md", text)
            plot(outcome, folder / "comparison.png")
            answers.append(as_data(outcome, costs) | {"folder": str(folder)})
            texts.append(text)
        if markdown is not None:
            write_whole(markdown, "\n".join(texts))
        output.result({"comparisons": answers}, text="\n".join(texts))


@app.command("methods")
def methods(threads: ThreadsOption = 0, json: JsonOption = False) -> None:
    """The methods that a recipe may name, their options, and what they need of the batch."""
    with Output(json=json, threads=threads) as output:
        from facekd.distill.methods import METHODS, method_options

        answer: list[dict[str, Any]] = [
            {
                "name": name,
                "taps": method.taps,
                "options": method_options(method),
                "needs": list(method.needs),
                "takes": list(method.takes),
                "sample_weights": method.per_sample,
            }
            for name, method in METHODS.items()
        ]
        table = Table("method", "taps a side", "options", "needs", "sample weights")
        for item in answer:
            wanted = ", ".join([*item["needs"], *(f"({name})" for name in item["takes"])])
            weighed = "yes" if item["sample_weights"] else ""
            table.add_row(item["name"], str(item["taps"] or "any"), ", ".join(item["options"]), wanted, weighed)
        output.result({"methods": answer}, text=table)


def _costs(outcome: Outcome, recipe: Comparison, files: dict[str, Path], stage: Stage) -> dict[str, Cost]:
    """Of the teachers' files and of one student: all rows train the same network."""
    from facekd.bench.costs import measure_costs

    given = {name: files.get(name, item.file) for name, item in recipe.teachers.items()}
    networks = {f"teacher {name}": file for name, file in given.items() if file is not None and file.suffix == ".onnx"}
    students = [file for row in (outcome.alone, *outcome.rows) for file in row.weights]
    return measure_costs(networks | ({"student": students[0]} if students else {}), stage.example)


def _command(name: str, recipe: Comparison, settings: Any, lfw: bool) -> str:
    """What makes the table, for a page: folders and files by what they are, not by where they lie here."""
    words = ["facekd distill compare", name, "--data DATA"]
    words += [f"--teacher {key}={key.upper()}.onnx" for key, item in recipe.teachers.items() if item.kind == "file"]
    words += ["--lfw LFW"] if lfw else []
    words += [f"--set {shlex.quote(re.sub(ABSOLUTE, '', item))}" for item in settings]
    return " ".join(words)


def _named_file(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise ConfigError(f"--teacher wants NAME=FILE, got {text!r}")
    return name, Path(path)


def register(root: typer.Typer) -> None:
    """Add the command group."""
    root.add_typer(app)
