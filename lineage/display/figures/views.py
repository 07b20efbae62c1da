"""Figure of training images and their augmented views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage.display.figures.style import grid_of, shown

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

ROW_HEIGHT = 1.5
"""Inches for a row of six pictures; more in a row are smaller."""

_LONGEST_LABEL = 26


@dataclass(frozen=True)
class Picture:
    """One picture of a training image.

    Attributes:
        pixels: Colours, uint8, shape (H, W, 3).
        labels: Share of each class that it shows, by the class's name.
    """

    pixels: "NDArray[np.uint8]"
    labels: Mapping[str, float]

    @property
    def title(self) -> str:
        """The classes, with per cent where there are several."""
        if len(self.labels) == 1:
            return next(iter(self.labels))
        return " · ".join(f"{shown(name, 9)} {100 * share:.0f}" for name, share in self.labels.items())


@dataclass(frozen=True)
class Row:
    """A training image and its views.

    Attributes:
        index: Row of the image in the training part.
        image: The image as it is evaluated.
        views: Its views of the first epochs.
    """

    index: int
    image: Picture
    views: Sequence[Picture]

    def to_json(self) -> dict[str, Any]:
        """Return its labels as plain values."""
        labels = [dict(view.labels) for view in self.views]
        return {"index": self.index, "label": next(iter(self.image.labels)), "views": labels}


def paint_views(figure: "Figure", rows: Sequence[Row]) -> None:
    """Draw a row for each image: the image, and its views."""
    pictures = [picture for row in rows for picture in (row.image, *row.views)]
    columns = len(pictures) // len(rows)
    places = grid_of(figure, len(pictures), columns)
    for number, (axes, picture) in enumerate(zip(places, pictures, strict=True)):
        axes.imshow(picture.pixels, interpolation="nearest")
        axes.axis("off")
        weight = "bold" if number % columns == 0 else "normal"
        axes.set_title(shown(picture.title, _LONGEST_LABEL), fontsize=6.5, pad=2, weight=weight)
