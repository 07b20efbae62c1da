"""``lineage report``: draw families into figures and a page."""

from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.output import AsJson, Overrides, print_json, print_text
from lineage.cli.startup import importing


def report(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL", help="Names of registered models, or files .json packed --without-weights."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for the files; by default MODEL-report.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Draw families into a folder: figures as PNG and SVG, and one page; the first is the reference."""
    with importing():
        from lineage.evaluation.report import report as draw

    found = draw(models, out, overrides=overrides or ())
    if as_json:
        print_json(found.to_json())
        return
    for note in found.notes:
        print_text(note)
    kept = f", and in the artifacts of run {found.run_id}" if found.run_id else ""
    print_text(f"The report of {', '.join(found.names)} is in {found.files[0]}{kept}.")
