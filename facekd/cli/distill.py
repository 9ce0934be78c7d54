"""`facekd distill …`: compare ways to teach a small network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facekd.cli.output import JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError

app = typer.Typer(name="distill", no_args_is_help=True, help="Compare ways to teach a small network by a large one.")


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
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Train one student with and without each method, over several seeds, and print the table.

    What the folder holds already is not trained again, so a comparison that was stopped goes on.

    Examples:

        facekd distill compare compare-mask --data mask --teacher large=runs/mask-teacher/best.onnx
    """
    with Output(json=json, threads=threads) as output:
        from facekd.distill.compare import Comparison  # torch: only when something is trained
        from facekd.distill.compare import compare as run
        from facekd.distill.costs import measure_costs
        from facekd.distill.opening import build_network
        from facekd.distill.report import as_data, as_markdown, plot
        from facekd.distill.stages import open_stage
        from facekd.engine.settings import find_recipe, parse_recipe, read_toml

        files = dict(_named_file(item) for item in teacher or ())
        answers, texts = [], []
        for name in recipes:
            path = find_recipe(name)
            checked = parse_recipe(Comparison, read_toml(path), path)
            checked = checked.model_copy(update={"set": (*checked.set, *(settings or ()))})
            shared = find_recipe(checked.recipe)
            table = read_toml(shared, checked.set)
            table.setdefault("data", {})["folders"] = [str(folder) for folder in data or ()]
            if threads:
                table.setdefault("training", {})["threads"] = threads
            output.say(f"{path.stem}: reading the data")
            stage = open_stage(table, shared, lfw)
            folder = out / path.stem
            wanted = {key: value for key, value in files.items() if key in checked.teachers}
            outcome = run(checked, stage, folder, wanted, output.say)
            students = {"student": outcome.alone.weights[0]}
            networks = {}
            for key, item in checked.teachers.items():
                file = wanted.get(key, item.file)
                if file is not None and file.suffix == ".onnx":
                    students[f"teacher {key}"] = file
                    if item.architecture:
                        networks[f"teacher {key}"] = build_network(stage.architectures, item.architecture, item.options)
            networks["student"] = stage.task(0, None).student
            if checked.student.architecture:
                networks["student"] = build_network(
                    stage.architectures, checked.student.architecture, checked.student.options
                )
            costs = measure_costs(students, stage.example, networks)
            text = as_markdown(outcome, costs)
            (folder / "table.md").write_text(text, encoding="utf-8")
            plot(outcome, folder / "comparison.png")
            answers.append(as_data(outcome, costs) | {"folder": str(folder)})
            texts.append(text)
        output.result({"comparisons": answers}, text="\n".join(texts))


def _named_file(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise ConfigError(f"--teacher wants NAME=FILE, got {text!r}")
    return name, Path(path)


def register(root: typer.Typer) -> None:
    """Add the command group."""
    root.add_typer(app)
