"""``ancestors``, ``descendants``, ``log``, ``promote``, ``rm`` and ``doctor``: look after a family."""

from typing import Annotated

import typer

from lineage.cli.output import AsJson, VersionUri, print_json, print_rich, print_text
from lineage.errors import IntegrityError

Depth = Annotated[int | None, typer.Option(min=1, help="Number of edges to follow; all by default.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the registered model.")]


def ancestors(uri: VersionUri, depth: Depth = None, as_json: AsJson = False) -> None:
    """List the teachers of a version, or an ensemble's members, and theirs, nearest first."""
    from lineage.registry.family.lookup import ancestors_of, find_version
    from lineage.report.care_tables import relatives_table

    found = ancestors_of(find_version(uri), depth)
    if as_json:
        print_json([relative.to_json() for relative in found])
    else:
        print_rich(relatives_table(found))


def descendants(uri: VersionUri, depth: Depth = None, as_json: AsJson = False) -> None:
    """List the students of a version and ensembles that hold it, and theirs, nearest first."""
    from lineage.registry.family.lookup import descendants_of, find_version
    from lineage.report.care_tables import relatives_table

    found = descendants_of(find_version(uri), depth)
    if as_json:
        print_json([relative.to_json() for relative in found])
    else:
        print_rich(relatives_table(found))


def log(model: Model, as_json: AsJson = False) -> None:
    """Print what happened to a family: registrations, alias moves, removals; those by others are inferred."""
    from lineage.registry.family.history import read_history
    from lineage.report.care_tables import history_table

    events = read_history(model)
    if as_json:
        print_json([event.to_json() for event in events])
    else:
        print_rich(history_table(events))


def promote(
    uri: VersionUri,
    alias: Annotated[str, typer.Option(help="Such as champion; moved here from wherever it points.")],
    as_json: AsJson = False,
) -> None:
    """Point an alias to a version."""
    from lineage.registry.family.aliases import promote as point_alias

    version = point_alias(uri, alias)
    if as_json:
        print_json(version.to_json())
    else:
        print_text(f"models:/{version.name}@{alias} is {version.uri}.")


def rm(
    uri: VersionUri,
    force: Annotated[
        bool, typer.Option("--force", help="Remove what others need, and leave a tombstone in its place.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a version that no other one needs; its run and its logged model stay."""
    from lineage.registry.care.remove import remove

    removal = remove(uri, force)
    if as_json:
        print_json(removal.to_json())
        return
    print_text(f"Removed {removal.version.uri}" + (" and left a tombstone." if removal.tombstone else "."))
    for orphan in removal.orphans:
        print_text(f"{orphan.uri} needed it.")


def doctor(
    model: Model,
    fix: Annotated[bool, typer.Option("--fix", help="Complete what can be completed.")] = False,
    kill_runs: Annotated[
        bool,
        typer.Option(
            "--kill-runs",
            help="With --fix, mark unfinished runs as KILLED unless they can be continued on this machine.",
        ),
    ] = False,
    skip_weights: Annotated[
        bool, typer.Option("--skip-weights", help="Do not pull the weights to compare their digests.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Examine a family; leaves with 0 if it is healthy, with 4 if something is left to find."""
    from lineage.registry.care.doctor import examine
    from lineage.report.care_tables import diagnosis_tables
    from lineage.training.checkpoints import state_home

    diagnosis = examine(
        model,
        lambda key: (state_home() / key).is_dir(),
        fix=fix,
        kill_runs=kill_runs,
        weights=not skip_weights,
    )
    if as_json:
        print_json(diagnosis.to_json())
    else:
        print_rich(*diagnosis_tables(diagnosis))
    if not diagnosis.healthy:
        raise typer.Exit(IntegrityError.exit_code)
