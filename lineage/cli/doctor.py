"""``lineage doctor``: find and repair what is wrong in a family."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, Model, print_json, print_rich
from lineage.cli.startup import importing
from lineage.errors import IntegrityError


def doctor(
    model: Model,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired.")] = False,
    kill_runs: Annotated[
        bool,
        typer.Option(
            "--kill-runs",
            help="With --fix, mark unfinished runs as KILLED unless they can be continued on this machine.",
        ),
    ] = False,
    skip_weights: Annotated[
        bool, typer.Option("--skip-weights", help="Do not pull the weights to verify them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a family's teachers, weights, aliases, cards and runs, and report what is wrong.

    The exit code is 0 if the family is healthy, and 4 if a finding is left.
    """
    with importing():
        from lineage.display.care_tables import diagnosis_tables
        from lineage.registry.care.doctor import examine
        from lineage.training.checkpoints import state_home

    diagnosis = examine(
        model,
        lambda key: (state_home() / key).is_dir(),
        fix=fix,
        kill_runs=kill_runs,
        weights=not skip_weights,
    )
    if as_json:
        print_json(diagnosis.to_json())
    else:
        print_rich(*diagnosis_tables(diagnosis))
    if not diagnosis.healthy:
        raise typer.Exit(IntegrityError.exit_code)
