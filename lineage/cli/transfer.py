"""``lineage transfer``: measure the networks of a family on another data set."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, VersionUri, print_json, print_progress, print_rich
from lineage.cli.startup import importing
from lineage.errors import UsageError

_ALL = "all"


def transfer(
    uri: VersionUri,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="DATA", help="Data set to measure on: a value of the recipe key data.name."
        ),
    ],
    ancestors: Annotated[
        str, typer.Option(metavar="N", help="Number of teachers to measure as well, nearest first, or 'all'.")
    ] = "0",
    probe: Annotated[
        str,
        typer.Option(
            metavar="PROBE",
            help="Classifier on frozen features: logistic, svm or knn; finetune trains the whole network.",
        ),
    ] = "logistic",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override data.KEY of the data set, or training.KEY of finetune; may be repeated.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the probe, or of fine-tuning.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure a version on another data set: train a classifier on its frozen features, or fine-tune it."""
    num_ancestors = _parse_ancestors(ancestors)
    with importing():
        from lineage.display.tables import transfer_table
        from lineage.evaluation.transfer import transfer as transfer_versions

    results = transfer_versions(
        uri,
        to,
        ancestors=num_ancestors,
        overrides=overrides or (),
        probe=probe,
        seed=seed,
        tell=print_progress,
    )
    if as_json:
        print_json([result.to_json() for result in results])
    else:
        print_rich(transfer_table(results))


def _parse_ancestors(text: str) -> int | None:
    if text == _ALL:
        return None
    if not text.isdecimal():
        raise UsageError(f"--ancestors must be a number of at least 0, or 'all', but got '{text}'.")
    return int(text)
