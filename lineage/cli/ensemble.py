"""``lineage ensemble``: average the probabilities of several generations."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, Overrides, print_json, print_rich, print_text
from lineage.cli.startup import importing
from lineage.errors import UsageError


def ensemble(
    uris: Annotated[
        list[str],
        typer.Argument(
            metavar="URI...", help="One version, to which its teachers are added, or all members."
        ),
    ],
    ancestors: Annotated[
        int | None, typer.Option(help="Number of teachers to add, nearest first; all by default.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="W,W,…", help="Weights of the members, oldest first; equal by default."),
    ] = None,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="Register the ensemble as a version of this model.")
    ] = None,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy",
            help="With --register, store copies of the members in the version instead of links to them.",
        ),
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure a version and its teachers: each alone, and the ensembles of the oldest 1, 2, 3 and so on."""
    with importing():
        from lineage.display.tables import ensemble_table
        from lineage.evaluation.ensemble import ensemble as measure_ensemble

    measured = measure_ensemble(
        uris,
        ancestors=ancestors,
        weights=None if weights is None else _parse_weights(weights),
        name=register,
        copy=copy,
        overrides=overrides or (),
    )
    if as_json:
        print_json(measured.to_json())
        return
    print_rich(
        ensemble_table(measured.members, measured.weights, measured.member_metrics, measured.prefix_metrics)
    )
    if measured.version is not None:
        print_text(f"Registered as {measured.version.uri}.")


def _parse_weights(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--weights must be numbers between commas, as in 1,2,1, but got '{text}'."
        ) from error
