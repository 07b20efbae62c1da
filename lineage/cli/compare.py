"""``lineage compare``: families side by side."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, print_json, print_missing_weights, print_rich
from lineage.cli.startup import collect_no_garbage


def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Names of the registered models.")],
    metric: Annotated[
        str, typer.Option(help="Metric to compare, as 'lineage show' lists it.")
    ] = "test_accuracy",
    as_json: AsJson = False,
) -> None:
    """Compare families by generation: mean ± deviation over seeds, and differences from the first family."""
    collect_no_garbage()
    from lineage.display.tables import comparison_table
    from lineage.evaluation.compare import compare as compare_families

    comparison = compare_families(models, metric)
    if as_json:
        print_json(comparison.to_json())
    else:
        print_rich(comparison_table(comparison))
    print_missing_weights(*models)
