"""``lineage sync``: register what was grown with ``--offline``."""

from lineage.cli.output import AsJson, print_json, print_text
from lineage.cli.startup import importing


def sync(as_json: AsJson = False) -> None:
    """Register the generations that 'lineage grow --offline' has left in the outbox."""
    with importing():
        from lineage.exchange.sync import sync as sync_outbox
        from lineage.formats import counted

    syncing = sync_outbox()
    if as_json:
        print_json(syncing.to_json())
        return
    if not syncing.families:
        print_text("Nothing waits in the outbox.")
    for family in syncing.families:
        held = (
            f"; {counted(family.held, 'version')} had been registered under the same key"
            if family.held
            else ""
        )
        print_text(f"{family.name}: {counted(len(family.added), 'version')} registered{held}.")
    for name in syncing.growing:
        print_text(f"{name} has an unfinished generation: the outbox stays, and can be synced again.")
