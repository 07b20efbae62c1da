"""``lineage ancestors`` and ``lineage descendants``: the versions that one version comes from or leads to."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lineage.cli.output import AsJson, VersionUri, print_json, print_rich, print_text
from lineage.cli.startup import collect_no_garbage

if TYPE_CHECKING:
    from lineage.registry.family.lookup import Relative

Depth = Annotated[int | None, typer.Option(min=1, help="Number of edges to follow; all by default.")]


def ancestors(uri: VersionUri, depth: Depth = None, as_json: AsJson = False) -> None:
    """List the teachers of a version, or the members of an ensemble, and in turn theirs, nearest first."""
    collect_no_garbage()
    from lineage.registry.family.lookup import ancestors_of, find_version

    version = find_version(uri)
    _print(ancestors_of(version, depth), f"{version.uri} has no ancestors in this store.", as_json)


def descendants(uri: VersionUri, depth: Depth = None, as_json: AsJson = False) -> None:
    """List the students of a version, the ensembles it is a member of, and in turn theirs, nearest first."""
    collect_no_garbage()
    from lineage.registry.family.lookup import descendants_of, find_version

    version = find_version(uri)
    _print(descendants_of(version, depth), f"{version.uri} has no descendants.", as_json)


def _print(relatives: "Sequence[Relative]", if_none: str, as_json: bool) -> None:
    from lineage.display.care_tables import relatives_table

    if as_json:
        print_json([relative.to_json() for relative in relatives])
    elif relatives:
        print_rich(relatives_table(relatives))
    else:
        print_text(if_none)
