"""``lineage audit``: how well a family tells which images trained its patriarch."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, VersionUri, console_reporter, print_json, print_rich
from lineage.cli.startup import importing


def audit(
    uri: VersionUri,
    shadows: Annotated[
        int,
        typer.Option(
            metavar="S",
            help="Number of shadow successions on halves of the images for LiRA: 0, or an even one from 4.",
        ),
    ] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override where and how the images are read, as data.root=FOLDER; may be repeated.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well a version and its ancestors tell which images trained their patriarch."""
    with importing():
        from lineage.display.audit_table import audit_table
        from lineage.growing.audit import audit as audit_versions

    with console_reporter() as reporter:
        results = audit_versions(uri, shadows=shadows, overrides=overrides or (), reporter=reporter)
    if as_json:
        print_json([result.to_json() for result in results])
    else:
        print_rich(audit_table(results))
