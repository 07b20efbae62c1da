"""Options that commands share, and printing: data to standard output, from rank 0 alone."""

import json
import os
import sys
from typing import Annotated, Any

import typer

from lineage.processes import is_main_process

_WIDTH_WITHOUT_TERMINAL = 120

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the registered model.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the recipe; may be repeated."),
]
VersionUri = Annotated[
    str, typer.Argument(metavar="URI", help="Version: models:/NAME/VERSION or models:/NAME@ALIAS.")
]


def print_json(value: Any) -> None:
    """Print a plain value as JSON."""
    if is_main_process():
        is_ascii = not (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=is_ascii) + "\n")


def print_text(text: str) -> None:
    """Print text as it is."""
    if is_main_process():
        sys.stdout.write(text + "\n")  # typer.echo sends UTF-8 to ASCII terminals
        sys.stdout.flush()


def print_rich(*renderables: Any) -> None:
    """Print tables and trees, fitted to the terminal."""
    from rich.console import Console

    if is_main_process():
        console = Console()
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console = Console(width=_WIDTH_WITHOUT_TERMINAL)
        for renderable in renderables:
            console.print(renderable)


def print_progress(line: str) -> None:
    """Print one line of progress to standard error."""
    if is_main_process():
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
