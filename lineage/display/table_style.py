"""The style that all tables share."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from lineage.formats import printable


def numeric(*headers: str) -> tuple[Column, ...]:
    """Return right-aligned columns that never wrap; a header breaks only at its own line ends."""
    return tuple(Column(header, justify="right", no_wrap=True) for header in headers)


def new_table(*columns: Column | str, title: str = "", caption: Sequence[str] = ()) -> Table:
    """Return an empty table; title and caption are literal text, never markup."""
    return Table(
        *columns,
        title=Text(printable(title)) if title else None,
        caption=Text("\n").join(Text(printable(line)) for line in caption) if caption else None,
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
    )


def add_row(table: Table, *cells: str) -> None:
    """Add a row of literal texts, in which nothing is taken as markup."""
    table.add_row(*(Text(printable(cell)) for cell in cells))
