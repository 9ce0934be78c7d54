"""`facekd evaluate`: the published protocols and the user's own photographs, with our models or a peer's."""

from __future__ import annotations

import typer

from facekd.cli import evaluate_crops, evaluate_detection, evaluate_open_set, evaluate_pairs


def register(app: typer.Typer) -> None:
    """Add `evaluate …` to the application."""
    # Made anew with each application: commands added to one that lives on would pile up.
    evaluate = typer.Typer(
        no_args_is_help=True,
        help="Measure models on published protocols, or on your own photographs "
        "(`pairs`, `crops`, `detection --labels`).",
        epilog="What each command reads and how its figures are computed: docs/evaluation.md.",
    )
    for commands in (evaluate_pairs, evaluate_crops, evaluate_detection, evaluate_open_set):
        commands.register(evaluate)
    app.add_typer(evaluate, name="evaluate")
