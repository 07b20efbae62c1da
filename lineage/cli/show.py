"""``lineage show``: one version."""

from lineage.cli.output import AsJson, VersionUri, print_json, print_missing_weights, print_rich
from lineage.cli.startup import collect_no_garbage


def show(uri: VersionUri, as_json: AsJson = False) -> None:
    """Show one version: its place in the family, its metrics, digests and settings."""
    collect_no_garbage()
    from lineage.display.tables import version_table
    from lineage.registry.family.lookup import find_version
    from lineage.registry.store.progress import read_settings

    version = find_version(uri)
    settings = read_settings(version.run_id).values
    if as_json:
        print_json(version.to_json() | {"settings": settings})
    else:
        print_rich(version_table(version, settings))
    print_missing_weights(version.name)
