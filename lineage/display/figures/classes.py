"""Figures of classes: test images with their most probable classes, and how alike classes are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lineage.display.figures.style import COLOURS, INK, LINE, SOFT, grid_of, shown
from lineage.display.figures.values import Example, Guess, Similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

EXAMPLES_A_ROW = 2

_MOST_NAMES = 25  # of classes along an axis
_LONGEST_NAME = 14
_PICTURE = 1.9  # width of a picture, in units of the panel
_PANEL = 3.3  # width of what one network says


def paint_examples(figure: "Figure", examples: Sequence[Example]) -> None:
    """Draw test images, each with the most probable classes of the networks beside it."""
    axes = grid_of(figure, len(examples), EXAMPLES_A_ROW)
    for place, example in zip(axes, examples, strict=True):
        _paint_example(place, example)


def _paint_example(axes: "Axes", example: Example) -> None:
    axes.axis("off")
    rows = max(len(guess.classes) for guess in example.guesses)
    axes.set(xlim=(0, _PICTURE + 0.2 + 2 * _PANEL), ylim=(rows + 0.1, -1.15))
    axes.set_title(shown(example.title, 60), loc="left", fontsize=8.5)
    if example.pixels is not None:
        picture = axes.inset_axes((0, 0, _PICTURE, rows), transform=axes.transData)
        picture.imshow(example.pixels, interpolation="nearest")
        picture.axis("off")
    else:
        axes.text(_PICTURE / 2, rows / 2, "not at\nhand", ha="center", va="center", color=SOFT, fontsize=7)
    for number, guess in enumerate(example.guesses):
        _paint_guess(axes, guess, _PICTURE + 0.25 + number * _PANEL)


def _paint_guess(axes: "Axes", guess: Guess, left: float) -> None:
    width = _PANEL - 0.35
    axes.text(left, -0.5, shown(guess.title, 22), fontsize=7, color=SOFT, va="center")
    for row, (name, probability) in enumerate(zip(guess.classes, guess.probabilities, strict=True)):
        is_label = row == guess.label
        axes.barh(row + 0.5, width, left=left, height=0.86, color=LINE, alpha=0.35, linewidth=0)
        colour = COLOURS[2] if is_label else COLOURS[4]
        axes.barh(
            row + 0.5, width * probability, left=left, height=0.86, color=colour, alpha=0.5, linewidth=0
        )
        weight = "bold" if is_label else "normal"
        axes.text(
            left + 0.07,
            row + 0.53,
            shown(name, _LONGEST_NAME),
            fontsize=6.6,
            va="center",
            color=INK,
            weight=weight,
        )
        axes.text(
            left + width - 0.05,
            row + 0.53,
            f"{100 * probability:.0f}",
            fontsize=6.6,
            va="center",
            ha="right",
            color=INK,
            weight=weight,
        )


def paint_similarities(figure: "Figure", similarities: Sequence[Similarity]) -> None:
    """Draw how alike classes are to each network: the mean probability of one class for images of another."""
    highest = max(float(similarity.matrix.max()) for similarity in similarities) or 1.0
    axes = grid_of(figure, len(similarities), 2)
    for number, (place, similarity) in enumerate(zip(axes, similarities, strict=True)):
        place.set_title(similarity.title, loc="left")
        place.set_xlabel("probability given to")
        if number == 0:
            place.set_ylabel("images of")
        drawn = _paint_matrix(place, similarity, highest, first=number == 0)
    bar = figure.colorbar(drawn, ax=list(axes), shrink=0.7, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label("mean probability, %")


def paint_confusion(axes: "Axes", confusion: Similarity) -> None:
    """Draw a confusion matrix, given as the shares of the images of class i that are put into class j."""
    axes.set_title(confusion.title, loc="left")
    axes.set(xlabel="predicted", ylabel="images of")
    drawn = _paint_matrix(axes, confusion, float(confusion.matrix.max()) or 1.0, first=True)
    bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.outline.set_visible(False)
    bar.set_label("share of the class, %")


def _paint_matrix(axes: "Axes", similarity: Similarity, highest: float, first: bool) -> "AxesImage":
    """Draw a matrix of shares up to ``highest``; only the first of several names its rows."""
    from matplotlib.colors import PowerNorm

    drawn = axes.imshow(
        100 * similarity.matrix,
        cmap="cividis",
        norm=PowerNorm(0.5, 0, 100 * highest),
        interpolation="nearest",
    )
    axes.grid(visible=False)
    _label_classes(axes, similarity, first)
    return drawn


def _label_classes(axes: "Axes", similarity: Similarity, first: bool) -> None:
    """Name classes at the axes, or superclasses by their first class where there are many."""
    count = len(similarity.names)
    for border in similarity.borders:
        axes.axhline(border - 0.5, color="white", linewidth=0.4, alpha=0.35)
        axes.axvline(border - 0.5, color="white", linewidth=0.4, alpha=0.35)
    if count <= _MOST_NAMES:
        names = [shown(name, _LONGEST_NAME) for name in similarity.names]
        rotation = 0 if max(map(len, names)) <= 2 else 90
        axes.set_xticks(range(count), names, rotation=rotation, fontsize=7)
        axes.set_yticks(range(count), names if first else [], fontsize=7)
    elif similarity.borders and len(similarity.borders) <= 2 * _MOST_NAMES:
        starts = [0, *similarity.borders]
        ends = [*similarity.borders, count]
        middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
        names = [f"{shown(similarity.names[start], _LONGEST_NAME)} …" for start in starts]
        axes.set_xticks([])
        axes.set_yticks(middles if first else [], names if first else [], fontsize=6.5)
    else:
        axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
