"""``lineage ensemble``: generations at work together."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, Overrides, print_json, print_rich, print_text
from lineage.errors import UsageError


def ensemble(
    uris: Annotated[
        list[str],
        typer.Argument(metavar="URI...", help="One version, joined by its teachers, or all members."),
    ],
    ancestors: Annotated[
        int | None, typer.Option(help="How many teachers join, nearest first; all by default.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,W,…", help="Weights of the members, oldest first.")
    ] = None,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="Register the ensemble as a version of this model.")
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Embed the members in the registered version.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure a version with its ancestors: each alone, and the ensembles of the first 1, 2 and so on."""
    from lineage.evaluation.ensemble import ensemble as measure_ensemble
    from lineage.report.tables import ensemble_table

    found = measure_ensemble(
        uris,
        ancestors=ancestors,
        weights=None if weights is None else _parse_weights(weights),
        name=register,
        copy=copy,
        overrides=overrides or (),
    )
    if as_json:
        print_json(found.to_json())
        return
    print_rich(ensemble_table(found.members, found.weights, found.member_metrics, found.prefix_metrics))
    if found.version is not None:
        print_text(f"Registered as {found.version.uri}.")


def _parse_weights(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--weights must be numbers between commas, as in 1,2,1, but got '{text}'."
        ) from error
