"""``lineage tree``: draw a family."""

from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.output import AsJson, Model, print_json, print_missing_weights, print_rich, print_text
from lineage.cli.startup import collect_no_garbage
from lineage.errors import UsageError


def tree(
    model: Model,
    as_json: AsJson = False,
    dot: Annotated[bool, typer.Option("--dot", help="Print a Graphviz graph.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page that a browser opens without a server."),
    ] = None,
) -> None:
    """Draw a family: each patriarch, and under each teacher its students."""
    if as_json + dot + mermaid + (html is not None) > 1:
        raise UsageError("At most one of --json, --dot, --mermaid and --html may be given, but got several.")
    collect_no_garbage()
    if html is not None:
        _write_html(model, html)
        return
    from lineage.display import tree as drawing
    from lineage.registry.care.remove import read_tombstones
    from lineage.registry.family.lookup import read_family

    family, removed = read_family(model), read_tombstones(model)
    if as_json:
        print_json(drawing.tree_json(family, removed))
    elif dot:
        print_text(drawing.dot(family, removed))
    elif mermaid:
        print_text(drawing.mermaid(family, removed))
    else:
        print_rich(drawing.rich_tree(family, removed))
    print_missing_weights(model)


def _write_html(model: str, file: Path) -> None:
    from lineage.display.page_data import family_html
    from lineage.registry.family.lookup import read_family

    text = family_html(read_family(model))
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--html must name a file that can be written, but '{file}' cannot: {error.strerror};"
            " name another."
        ) from error
    print_text(f"The tree of {model} is in {file}.")
