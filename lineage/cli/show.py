"""``lineage show``: one version."""

from typing import TYPE_CHECKING, Annotated

import typer

from lineage.cli.output import AsJson, VersionUri, print_json, print_missing_weights, print_rich
from lineage.cli.startup import collect_no_garbage

if TYPE_CHECKING:
    from lineage.display.class_table import ClassRow
    from lineage.registry.family.family import Version


def show(
    uri: VersionUri,
    classes: Annotated[
        bool,
        typer.Option("--classes", help="Add the test accuracy of each class, and what it is mistaken for."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one version: its place in the family, its metrics, digests and settings."""
    collect_no_garbage()
    from lineage.display.tables import version_table
    from lineage.registry.family.lookup import find_version
    from lineage.registry.store.progress import read_settings

    version = find_version(uri)
    settings = read_settings(version.run_id).values
    rows = _class_rows(version) if classes else []
    if as_json:
        by_class = {"classes": [row.to_json() for row in rows]} if classes else {}
        print_json(version.to_json() | {"settings": settings} | by_class)
    else:
        print_rich(version_table(version, settings))
        if rows:
            from lineage.display.class_table import classes_table

            print_rich(classes_table(version.uri, rows))
    print_missing_weights(version.name)


def _class_rows(version: "Version") -> "list[ClassRow]":
    from lineage.display.class_table import class_rows
    from lineage.display.image_data import read_measured

    return class_rows(read_measured(version.model_id, version.uri).predictions)
