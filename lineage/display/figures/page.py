"""A report as files: its figures as PNG and SVG, and one HTML page that needs nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from lineage.display.figures.style import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MplFigure

PAGE_NAME = "report.html"


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: Name of its files without an ending.
        caption: What it shows, as a sentence or two.
        height: Height in inches; the width is 8.
        paint: Function that paints it.
    """

    name: str
    caption: str
    height: float
    paint: "Callable[[MplFigure], None]"


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        head: Titles of the columns; the first one names the row, others are numbers.
        rows: Texts of the cells.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: Its title.
        text: Paragraphs.
        figures: Its figures.
        tables: Its tables, below them.
    """

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def write_report(title: str, lead: str, sections: Sequence[Section], folder: Path) -> list[Path]:
    """Draw all figures into ``folder`` and write the page.

    Args:
        title: Title of the report.
        lead: Sentence below it.
        sections: Parts of the report.
        folder: Existing folder.

    Returns:
        The files; the page is the first.
    """
    drawn, written = {}, [folder / PAGE_NAME]
    for figure in (figure for section in sections for figure in section.figures):
        drawing = draw(figure.height, figure.paint)
        drawn[figure.name] = drawing.inline
        png, svg = folder / f"{figure.name}.png", folder / f"{figure.name}.svg"
        png.write_bytes(drawing.png)
        svg.write_text(drawing.svg, encoding="utf-8")
        written += [png, svg]
    written[0].write_text(_render(title, lead, sections, drawn), encoding="utf-8")
    return written


def _render(title: str, lead: str, sections: Sequence[Section], drawn: dict[str, str]) -> str:
    from jinja2 import Environment, StrictUndefined

    template = files("lineage.display.figures").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(template).render(title=title, lead=lead, sections=sections, drawn=drawn)
