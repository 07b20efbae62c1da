"""What all commands share: options by name, and where things are printed."""

import atexit
import gc
import json
import os
from typing import Annotated, Any

import typer

from lineage.processes import is_main_process

_WIDTH_WITHOUT_TERMINAL = 120

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the recipe; may be repeated."),
]
VersionUri = Annotated[str, typer.Argument(metavar="URI", help="models:/NAME/VERSION or models:/NAME@ALIAS.")]


def collect_no_garbage() -> None:
    """Let objects that refer to each other stay until the process ends, which is soon.

    Imports, and families of thousands of versions, are millions of objects that all stay: a process that
    reads such a family and ends spends a quarter of its time going through them in vain.
    """
    gc.disable()
    atexit.register(gc.freeze)


def print_json(value: Any) -> None:
    """Data for other programs, on standard output."""
    if is_main_process():
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_text(text: str) -> None:
    """Text for other programs or people, on standard output."""
    if is_main_process():
        typer.echo(text)


def print_rich(*renderables: Any) -> None:
    """Tables and trees, on standard output."""
    from rich.console import Console

    if is_main_process():
        console = Console()
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console = Console(width=_WIDTH_WITHOUT_TERMINAL)
        for renderable in renderables:
            console.print(renderable)
