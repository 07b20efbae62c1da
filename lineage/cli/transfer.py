"""``lineage transfer``: what the networks of a family are worth on another data set."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, VersionUri, print_json, print_rich
from lineage.errors import UsageError
from lineage.processes import is_main_process

_ALL = "all"


def transfer(
    uri: VersionUri,
    to: Annotated[str, typer.Option("--to", metavar="DATA", help="Other data set, as data.name names it.")],
    ancestors: Annotated[
        str, typer.Option(metavar="N", help="Nearest ancestors to measure as well; 'all' for each.")
    ] = "0",
    probe: Annotated[
        str,
        typer.Option(
            metavar="PROBE",
            help="logistic, svm or knn on frozen features; finetune trains the whole network.",
        ),
    ] = "logistic",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="data.KEY of the other data set, or training.KEY of finetune; may be repeated.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what a probe draws, and of finetuning.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure a version, and its ancestors, on another data set: a classifier on frozen features."""
    wanted = _parse_ancestors(ancestors)
    from lineage.evaluation.transfer import transfer as transfer_versions
    from lineage.report.tables import transfer_table

    results = transfer_versions(
        uri, to, ancestors=wanted, overrides=overrides or (), probe=probe, seed=seed, tell=_tell
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


def _tell(line: str) -> None:
    """Progress, on standard error."""
    if is_main_process():
        typer.echo(line, err=True)
