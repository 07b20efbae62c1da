"""``lineage tree``: draw a family."""

from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.output import AsJson, Model, print_json, print_missing_weights, print_rich, print_text
from lineage.cli.startup import collect_no_garbage, importing
from lineage.errors import UsageError

MOST_IMAGES = 500  # of a data set in one page


def tree(
    model: Model,
    as_json: AsJson = False,
    dot: Annotated[bool, typer.Option("--dot", help="Print a Graphviz graph.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page that a browser opens without a server."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MOST_IMAGES,
            help="Put N test images of each data set into the page, with what each version predicted.",
        ),
    ] = None,
) -> None:
    """Draw a family: each patriarch, and under each teacher its students."""
    if as_json + dot + mermaid + (html is not None) > 1:
        raise UsageError("At most one of --json, --dot, --mermaid and --html may be given, but got several.")
    if images is not None and html is None:
        raise UsageError("--images is for the page that --html writes, but --html is not given; add it.")
    collect_no_garbage()
    if html is not None:
        _write_html(model, html, images)
        return
    from lineage.display import tree as drawing
    from lineage.registry.care.remove import read_tombstones
    from lineage.registry.family.lookup import read_family, students_elsewhere

    shown = read_family(model), read_tombstones(model), students_elsewhere(model)
    if as_json:
        print_json(drawing.tree_json(*shown))
    elif dot:
        print_text(drawing.dot(*shown))
    elif mermaid:
        print_text(drawing.mermaid(*shown))
    else:
        print_rich(drawing.rich_tree(*shown))
    print_missing_weights(model)


def _write_html(model: str, file: Path, num_images: int | None) -> None:
    from lineage.display.page_data import family_html
    from lineage.registry.family.lookup import read_family

    family = read_family(model)
    if num_images is None:
        text = family_html(family)
    else:
        with importing():
            from lineage.evaluation.page_images import page_images
        text = family_html(family, page_images(family, num_images))
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--html must name a file that can be written, but '{file}' cannot: {error.strerror};"
            " name another."
        ) from error
    print_text(f"The tree of {model} is in {file}.")
