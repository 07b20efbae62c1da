"""``lineage promote``: point an alias to a version."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, VersionUri, print_json, print_text


def promote(
    uri: VersionUri,
    alias: Annotated[
        str,
        typer.Option(help="Alias to set, such as champion; if it points to another version, it is moved."),
    ],
    as_json: AsJson = False,
) -> None:
    """Point an alias to a version."""
    from lineage.registry.family.aliases import promote as promote_version

    version = promote_version(uri, alias)
    if as_json:
        print_json(version.to_json())
    else:
        print_text(f"models:/{version.name}@{alias} is {version.uri}.")
