"""``lineage ls``: all families."""

from lineage.cli.output import AsJson, print_json, print_rich, print_text
from lineage.cli.startup import collect_no_garbage


def ls(as_json: AsJson = False) -> None:
    """List the families of the store, last changed first."""
    collect_no_garbage()
    from lineage.display.tables import families_table
    from lineage.registry.family.overview import families

    found = families()
    if as_json:
        print_json([family.to_json() for family in found])
    elif found:
        print_rich(families_table(found))
    else:
        print_text("The store holds no family; 'lineage grow digits' grows one.")
