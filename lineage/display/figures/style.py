"""The look of all figures, and their files: PNG, SVG, and SVG for a page in light and dark."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage.formats import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE = "#1b2131", "#5d6679", "#d5dae4"
"""Colours of text, of lesser text and of lines; a page replaces them by its own, light or dark."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours (2008), which people with any colour vision tell apart."""

MARKERS = ("o", "s", "^", "D", "v", "P")
MOST_LINES = len(COLOURS)

_WIDTH = 8.0  # inches; 900 pixels on a page
_DOTS_PER_INCH = 150
_PAD = 0.05  # inches around panels, and shares of them between
_LONGEST_TEXT = 28
_VARIABLES = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}
_IDS = re.compile(r'(?<=<g) id="[^"]*"')  # of groups, which nothing refers to
_WHITE = '<rect width="100%" height="100%" fill="#ffffff"/>'
_PROLOGUE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "text.color": INK,
    "text.parse_math": False,  # names in a registry may hold any sign
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "lineage",
    "figure.dpi": _DOTS_PER_INCH,
}


@dataclass(frozen=True)
class Drawing:
    """A figure in the forms that a report needs.

    Attributes:
        png: Picture on white.
        svg: The same as vectors, on white.
        inline: Vectors on nothing for a page whose style sheet defines the colours ``--ink``, ``--soft`` and
            ``--line``.
    """

    png: bytes
    svg: str
    inline: str


def draw(height: float, paint: Callable[["Figure"], None]) -> Drawing:
    """Paint a figure 8 inches wide and ``height`` inches high.

    Matplotlib's settings and its active figures stay as they are.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # names in other scripts
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.get_layout_engine().set(h_pad=_PAD, w_pad=_PAD, hspace=_PAD, wspace=_PAD)  # type: ignore[union-attr,call-arg]
        FigureCanvasAgg(figure)
        paint(figure)
        png, vectors = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", facecolor="white", metadata={"Software": None})
        figure.set_layout_engine("none")  # which has placed everything
        figure.savefig(vectors, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    transparent = vectors.getvalue()
    svg = re.sub(r"(<svg\b[^>]*>)", rf"\1{_WHITE}", transparent, count=1)
    return Drawing(png.getvalue(), svg, _inline(transparent))


def axes_in_style(size: tuple[float, float], paint: Callable[["Axes"], None], axes: "Axes | None") -> "Axes":
    """Paint on axes that are given, or on those of a new figure of pyplot in the style of all figures.

    Args:
        size: Width and height of a new figure in inches.
        paint: Function that paints.
        axes: Axes to paint on; None for new ones.

    Returns:
        The axes.
    """
    import matplotlib as mpl

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        if axes is not None:
            paint(axes)
            return axes
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=size, layout="constrained")  # loads the backend, which sets its own style
        with mpl.rc_context(_SETTINGS):
            axes = figure.subplots()
            paint(axes)
    return axes


def _inline(svg: str) -> str:
    """Return vectors for the inside of a page: no prologue, no ids that another figure has as well."""
    text = _METADATA.sub("", _IDS.sub("", _PROLOGUE.sub("", svg)))
    head, tag_end, rest = text.partition(">")
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    text = head + ' aria-hidden="true"' + tag_end + rest
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text


def shown(text: str, longest: int = _LONGEST_TEXT) -> str:
    """Return a name as a figure shows it: without control characters, and shortened in its middle."""
    text = " ".join(printable(text).split())
    if text.startswith("_"):
        text = f"\N{THIN SPACE}{text}"  # matplotlib hides labels that begin with an underscore
    end = longest // 2
    return text if len(text) <= longest else f"{text[: longest - end - 1]}…{text[-end:]}"


def add_legend(figure: "Figure", axes: "Sequence[Axes]") -> None:
    """Put one legend above all panels, which names each line once."""
    named: dict[Any, Any] = {}
    for place in axes:
        handles, labels = place.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    columns = min(len(named), 3)
    figure.legend(list(named.values()), list(named), loc="outside upper left", ncols=columns)


def grid_of(figure: "Figure", count: int, columns: int, **options: Any) -> Sequence["Axes"]:
    """Return ``count`` axes in rows of ``columns``."""
    rows = -(-count // columns)
    axes = figure.subplots(rows, min(columns, count), squeeze=False, **options).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    return axes[:count]  # type: ignore[no-any-return]
