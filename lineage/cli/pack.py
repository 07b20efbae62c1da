"""``lineage pack``: write a family to a file."""

from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.output import AsJson, Model, print_json, print_progress, print_text
from lineage.cli.startup import importing


def pack(
    model: Model,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Archive, NAME.zip; folder, a name without an ending; or text without weights, NAME.json.",
        ),
    ],
    without_weights: Annotated[
        bool,
        typer.Option("--without-weights", help="Leave out weights, soft targets and other large files."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a family with its weights, runs and edges to a file, to carry it to another store."""
    with importing():
        from lineage.exchange.pack import pack as pack_family
        from lineage.formats import counted

    packing = pack_family(model, file, with_weights=not without_weights)
    if as_json:
        print_json(packing.to_json())
        return
    weights = "" if packing.with_weights else ", without weights"
    print_text(
        f"{packing.name}, {counted(packing.num_versions, 'version')} and {counted(packing.num_runs, 'run')}"
        f"{weights}, is in {packing.file}."
    )
    if packing.num_without_predictions:
        print_progress(
            f"{counted(packing.num_without_predictions, 'version')} without predictions: registered before"
            " they were kept, or their files are not in the store."
        )
