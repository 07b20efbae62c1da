"""``lineage rm``: remove a version."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, VersionUri, print_json, print_text


def rm(
    uri: VersionUri,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Remove it even if other versions or open runs need it, and leave a tombstone."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a version that no other version needs; its run and its logged model stay."""
    from lineage.registry.care.remove import remove

    removal = remove(uri, force)
    if as_json:
        print_json(removal.to_json())
        return
    print_text(f"Removed {removal.version.uri}" + (" and left a tombstone." if removal.tombstone else "."))
    for orphan in removal.orphans:
        print_text(f"{orphan.uri} needed it.")
