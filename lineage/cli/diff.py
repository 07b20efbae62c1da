"""``lineage diff``: two versions side by side."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, Overrides, VersionUri, print_json, print_rich, print_text
from lineage.cli.startup import importing


def diff(
    first: VersionUri,
    second: Annotated[str, typer.Argument(metavar="URI", help="Version to compare it with.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: settings, metrics, predictions, and the CKA of their features."""
    with importing():
        from lineage.display.tables import difference_tables
        from lineage.evaluation.diff import diff as compare_versions

    difference = compare_versions(first, second, overrides or ())
    if as_json:
        print_json(difference.to_json())
        return
    titles = (difference.first, difference.second)
    code = {f"code of the {kind}": pair for kind, pair in difference.code.items()}
    print_rich(*difference_tables(titles, difference.recipe | code, difference.metrics))
    print_text(f"Both predict the same class for {difference.agreement:.2%} of the test images.")
    if difference.cka is not None:
        print_text(f"The linear CKA of their features on the test images is {difference.cka:.4f}.")
    else:
        print_text(
            "Their features are not compared: an ensemble has none, nor has an adopted program that does not"
            " end in a linear layer."
        )
