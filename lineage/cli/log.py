"""``lineage log``: the history of a family."""

from lineage.cli.output import AsJson, Model, print_json, print_missing_weights, print_rich
from lineage.cli.startup import collect_no_garbage


def log(model: Model, as_json: AsJson = False) -> None:
    """Print the history of a family: registrations, moved aliases, removals.

    Changes that lineage did not make itself are inferred from the registry, and marked as such.
    """
    collect_no_garbage()
    from lineage.display.care_tables import history_table
    from lineage.registry.family.history import read_history

    events = read_history(model)
    if as_json:
        print_json([event.to_json() for event in events])
    else:
        print_rich(history_table(events))
    print_missing_weights(model)
