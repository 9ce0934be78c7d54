"""`facekd train`: run a recipe."""

from __future__ import annotations

import importlib
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from facekd.cli.output import JsonOption, Output, ThreadsOption
from facekd.errors import ConfigError

# The stage that trains each kind of recipe: a module with `Recipe` and `build_task(recipe)`; where the end of a run may
# deserve a word, with `closing_remark(recipe, steps)`, too.
STAGES = {
    "detector": "facekd.detection.train",
    "refiner": "facekd.detection.refine_train",
    "embedder": "facekd.recognition.train",
    "mask": "facekd.recognition.mask_train",
}


def train(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a recipe that comes with facekd.")],
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="DIR", help="A folder of training data; may be repeated.")
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="The run's folder [runs/RECIPE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.01, help="Fit the schedule into this many minutes of training.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init", metavar="WEIGHTS", help="Start from this ONNX file, or model of the zoo, instead of from noise."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one value of the recipe.")
    ] = None,
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Train a network by a recipe and leave its best weights as an ONNX file with its record.

    What a run leaves, RUN/best.onnx, can be handed to --model of every evaluation, and to facekd zoo add.

    Examples:

        facekd train embedder-dense --data faces --data faces_more --minutes 60

        facekd train mask-status --data mask --set training.seed=1 --run runs/mask-1
    """
    with Output(json=json, threads=threads) as output:
        from facekd.engine.loop import fit  # torch: only when something is trained
        from facekd.engine.run_folder import check_folder, recipe_changes
        from facekd.engine.settings import find_recipe, parse_recipe, read_toml, set_value
        from facekd.zoo import ModelCard
        from facekd.zoo.writing import write_record

        path = find_recipe(recipe)
        table = read_toml(path, settings or ())
        given = {
            "data.folders": [str(folder) for folder in data or ()] or None,
            "network.init": str(init) if init else None,
            "training.minutes": minutes,
            "training.threads": threads or None,
        }
        for key, value in given.items():
            if value is not None:
                set_value(table, key, value, path.stem)
        stage = importlib.import_module(stage_of(table, path))
        checked = parse_recipe(stage.Recipe, table, path)
        folder = run or Path("runs") / path.stem
        check_folder(folder, checked.training, resume=resume)
        for change in recipe_changes(folder, checked) if resume else ():
            output.warn(change)
        output.say(f"{path.stem}: reading the data")
        task = stage.build_task(checked)

        def write_its_record(weights: Path) -> None:
            card = ModelCard(
                recipe=path.stem,
                data=", ".join(str(folder) for folder in checked.data.folders),
                date=date.today().isoformat(),
                parameters=sum(p.numel() for p in task.student.parameters()),
            )
            write_record(weights, table["kind"], checked.preprocessing, card)

        outcome = fit(task, checked.training, folder, resume=resume, on_best=write_its_record, recipe=checked)
        if hasattr(stage, "closing_remark") and (remark := stage.closing_remark(checked, outcome.step)):
            output.say(remark)
        output.result(
            {"steps": outcome.step, "score": outcome.best_score, "weights": outcome.best_path},
            text=f"{outcome.step} steps, best validation score {outcome.best_score:.4f}: {outcome.best_path}",
        )


def stage_of(table: dict[str, Any], path: Path) -> str:
    """The module that trains a recipe's kind."""
    kind = table.get("kind")
    if kind not in STAGES:
        raise ConfigError(f"{path}: kind is {kind!r}; it must be one of {', '.join(sorted(STAGES))}")
    return STAGES[kind]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(train)
