"""``lineage data``: look at the images that a recipe trains on."""

from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.output import AsJson, Overrides, print_json, print_text
from lineage.cli.startup import importing

app = typer.Typer(help="Look at the images that a recipe trains on.", no_args_is_help=True)


@app.command()
def preview(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a TOML file.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Picture to write, .png or .svg.")],
    images: Annotated[int, typer.Option(min=1, max=50, help="Number of training images, one a row.")] = 6,
    views: Annotated[int, typer.Option(min=1, max=12, help="Number of views of each image.")] = 5,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Draw some training images as they are, and beside each the views of the first epochs, with labels."""
    with importing():
        from lineage.evaluation.preview import preview as draw

    rows = draw(recipe, out, images, views, overrides=overrides or ())
    if as_json:
        print_json({"path": str(out), "images": [row.to_json() for row in rows]})
    else:
        print_text(f"{len(rows)} training images, each with {views} views, are in {out}.")
