"""``lineage unpack``: register a packed family."""

from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.output import AsJson, print_json, print_text
from lineage.cli.startup import importing


def unpack(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Archive or folder that 'lineage pack' wrote.")
    ],
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="Add to a family of that name the versions whose keys it does not have."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register a packed family in the store in use, with new version numbers and ids."""
    with importing():
        from lineage.exchange.unpack import unpack as unpack_family
        from lineage.formats import counted

    unpacking = unpack_family(file, merge)
    if as_json:
        print_json(unpacking.to_json())
        return
    held = f"; {counted(unpacking.held, 'version')} were here" if unpacking.held else ""
    added = f"{counted(len(unpacking.added), 'version')} and {counted(unpacking.num_runs, 'run')} added"
    print_text(f"{unpacking.name}: {added}{held}.")
    if not unpacking.with_weights:
        print_text(
            "The file has no weights: the family can be shown, but not loaded, evaluated or grown from."
        )
    for version_id in unpacking.missing:
        print_text(f"models:/{version_id}, which it descends from, is not in this store.")
