"""``lineage rm``: remove a version, or a family."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, print_json, print_text
from lineage.errors import UsageError


def rm(
    target: Annotated[
        str,
        typer.Argument(
            metavar="URI", help="Version: models:/NAME/VERSION or models:/NAME@ALIAS; with --family, NAME."
        ),
    ],
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Remove it even if other versions or open runs need it, and leave a tombstone."
        ),
    ] = False,
    family: Annotated[
        bool, typer.Option("--family", help="Remove the registered model with all its versions.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a version that no other version needs, or a family; runs and logged models stay."""
    if family:
        if force:
            raise UsageError(
                "--force leaves a tombstone in a family, but --family removes it; leave out one."
            )
        _remove_family(target, as_json)
        return
    from lineage.registry.care.remove import remove

    removal = remove(target, force)
    if as_json:
        print_json(removal.to_json())
        return
    print_text(f"Removed {removal.version.uri}" + (" and left a tombstone." if removal.tombstone else "."))
    for orphan in removal.orphans:
        print_text(f"{orphan.uri} needed it.")


def _remove_family(name: str, as_json: bool) -> None:
    from lineage.formats import counted
    from lineage.registry.care.remove import remove_family

    removed = remove_family(name)
    if as_json:
        print_json({"name": name, "removed": [version.to_json() for version in removed]})
    else:
        print_text(f"Removed '{name}', {counted(len(removed), 'version')}; their runs and weights stay.")
