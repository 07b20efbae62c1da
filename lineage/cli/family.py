"""``lineage tree``, ``show`` and ``compare``: families as the registry knows them."""

from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.output import (
    AsJson,
    Overrides,
    VersionUri,
    collect_no_garbage,
    print_json,
    print_rich,
    print_text,
)
from lineage.errors import UsageError

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the registered model.")]


def tree(
    model: Model,
    as_json: AsJson = False,
    dot: Annotated[bool, typer.Option("--dot", help="Print Graphviz.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page that needs no server.")
    ] = None,
) -> None:
    """Draw a family: patriarchs, and under each teacher its students."""
    if as_json + dot + mermaid + (html is not None) > 1:
        raise UsageError("At most one of --json, --dot, --mermaid and --html may be given, but got several.")
    collect_no_garbage()
    if html is not None:
        _write_html(model, html)
        return
    from lineage.registry.care.remove import read_tombstones
    from lineage.registry.family.lookup import read_family
    from lineage.report import tree as drawing

    family, removed = read_family(model), read_tombstones(model)
    if as_json:
        print_json(drawing.tree_json(family, removed))
    elif dot:
        print_text(drawing.dot(family, removed))
    elif mermaid:
        print_text(drawing.mermaid(family, removed))
    else:
        print_rich(drawing.rich_tree(family, removed))


def _write_html(model: str, file: Path) -> None:
    from lineage.registry.family.lookup import read_family
    from lineage.report.page_data import family_html

    text = family_html(read_family(model))
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--html must name a file that can be written, but '{file}' cannot: {error.strerror};"
            " name another."
        ) from error
    print_text(f"The tree of {model} is in {file}.")


def show(uri: VersionUri, as_json: AsJson = False) -> None:
    """Show one version: its place in the family, its numbers, its digests."""
    from lineage.registry.family.lookup import find_version
    from lineage.report.tables import version_table

    version = find_version(uri)
    if as_json:
        print_json(version.to_json())
    else:
        print_rich(version_table(version))


def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Names of registered models.")],
    metric: Annotated[str, typer.Option(help="Metric of the versions to compare.")] = "test_accuracy",
    as_json: AsJson = False,
) -> None:
    """Set families side by side by generation: mean ± spread over seeds, and differences to the first."""
    from lineage.evaluation.compare import compare as compare_lines
    from lineage.evaluation.compare import group_lines
    from lineage.registry.family.lookup import read_family
    from lineage.report.tables import comparison_table

    comparison = compare_lines(group_lines([read_family(name) for name in models]), metric)
    if as_json:
        print_json(comparison.to_json())
    else:
        print_rich(comparison_table(comparison))


def diff(
    first: VersionUri,
    second: Annotated[str, typer.Argument(metavar="URI", help="What it is compared with.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Set two versions side by side: settings, metrics, agreement of predictions, CKA of features."""
    from lineage.evaluation.diff import diff as compare_versions
    from lineage.report.tables import difference_tables

    found = compare_versions(first, second, overrides or ())
    if as_json:
        print_json(found.to_json())
        return
    print_rich(*difference_tables((found.first, found.second), found.recipe, found.metrics))
    print_text(f"Both put {found.agreement:.2%} of the test images into the same class.")
    if found.cka is not None:
        print_text(f"Their features on the test images have a linear CKA of {found.cka:.4f}.")
    else:
        print_text(
            "Their features are not compared: an ensemble, or a program without a linear end, has none."
        )
