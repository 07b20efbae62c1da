"""``lineage evaluate``: measure a registered version again."""

from lineage.cli.output import AsJson, Overrides, VersionUri, print_json, print_rich
from lineage.cli.startup import importing


def evaluate(uri: VersionUri, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Measure a version on its test set, and compare with the metrics it was registered with."""
    with importing():
        from lineage.display.tables import evaluation_table
        from lineage.evaluation.evaluate import evaluate as evaluate_version

    evaluation = evaluate_version(uri, overrides or ())
    if as_json:
        print_json(evaluation.to_json())
    else:
        print_rich(evaluation_table(evaluation.metrics, evaluation.recorded))
