"""``lineage show``: one version."""

from lineage.cli.output import AsJson, VersionUri, print_json, print_missing_weights, print_rich
from lineage.cli.startup import collect_no_garbage


def show(uri: VersionUri, as_json: AsJson = False) -> None:
    """Show one version: its place in the family, its metrics and its digests."""
    collect_no_garbage()
    from lineage.display.tables import version_table
    from lineage.registry.family.lookup import find_version

    version = find_version(uri)
    if as_json:
        print_json(version.to_json())
    else:
        print_rich(version_table(version))
    print_missing_weights(version.name)
