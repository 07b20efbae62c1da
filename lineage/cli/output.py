"""Options that commands share, and printing: data to standard output, from rank 0 alone."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lineage.formats import printable
from lineage.processes import is_main_process

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

    from lineage.display.progress import Reporter

_WIDTH_WITHOUT_TERMINAL = 120
_LAYOUT = "\n\t"
_NOT_ASCII = re.compile(r"[^\n -~]")

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
        text = json.dumps(value, indent=2, ensure_ascii=is_ascii)
        sys.stdout.write(_NOT_ASCII.sub(_escape, text) + "\n")


def print_text(text: str) -> None:
    """Print text as it is."""
    if is_main_process():
        sys.stdout.write(printable(text, keep=_LAYOUT) + "\n")  # typer.echo sends UTF-8 to ASCII terminals
        sys.stdout.flush()


def print_rich(*renderables: Any) -> None:
    """Print tables and trees, fitted to the terminal."""
    from rich.console import Console

    if is_main_process():
        console = Console()
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console = Console(width=_WIDTH_WITHOUT_TERMINAL)
        for renderable in renderables:
            console.print(_Printable(renderable))


def print_progress(line: str) -> None:
    """Print one line of progress to standard error."""
    if is_main_process():
        sys.stderr.write(printable(line, keep=_LAYOUT) + "\n")
        sys.stderr.flush()


def print_missing_weights(*names: str) -> None:
    """Print to standard error which of the families were unpacked without weights."""
    from lineage.registry.packing.reading import lacks_weights

    for name in names:
        if lacks_weights(name):
            print_progress(f"The weights of {name} are not in this store: it was packed without them.")


def console_reporter() -> "AbstractContextManager[Reporter]":
    """Return a live display on standard error for rank 0, and a silent reporter for other ranks."""
    from rich.console import Console

    from lineage.display.progress import ConsoleReporter, SilentReporter

    return ConsoleReporter(Console(stderr=True)) if is_main_process() else nullcontext(SilentReporter())


class _Printable:
    """Renderable without the escape sequences that its text holds; those of its styles stay.

    Args:
        renderable: Table, tree or text that rich prints.
    """

    def __init__(self, renderable: Any) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Segment]":
        for segment in console.render(self._renderable, options):
            is_text = not segment.control
            yield segment._replace(text=printable(segment.text, keep=_LAYOUT)) if is_text else segment


def _escape(found: re.Match[str]) -> str:
    """Return a character as JSON escapes it, unless a terminal only shows it."""
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]
