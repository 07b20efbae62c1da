"""Figures of metrics by generation, of calibration, and of teachers against students."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lineage.display.figures.style import COLOURS, INK, LINE, MARKERS, SOFT, add_legend, grid_of, shown
from lineage.display.figures.values import Bins, Pair, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_COLUMNS = 4
_APART = 0.07  # generations between the marks of two lines


def paint_panels(figure: "Figure", panels: Sequence[Panel], labels: Sequence[str]) -> None:
    """Draw metrics by generation, a panel each: means over seeds with their intervals.

    Args:
        figure: Empty figure.
        panels: Metrics.
        labels: Labels of all lines of the report, in the order of their colours.
    """
    axes = grid_of(figure, len(panels), 2 if len(panels) > 1 else 1)
    for place, panel in zip(axes, panels, strict=True):
        paint_panel(place, panel, labels)
    if len(labels) > 1:
        add_legend(figure, axes)


def paint_panel(axes: "Axes", panel: Panel, labels: Sequence[str]) -> None:
    """Draw one metric by generation, as ``paint_panels`` does."""
    from matplotlib.ticker import MaxNLocator

    middle = (len(panel.lines) - 1) / 2
    for place, (label, points) in enumerate(panel.lines.items()):
        number = labels.index(label)
        generations = [point.generation + (place - middle) * _APART for point in points]
        means = [panel.scale * point.mean for point in points]
        axes.plot(
            generations,
            means,
            color=COLOURS[number],
            marker=MARKERS[number],
            label=shown(label),
            zorder=3,
        )
        for x, point in zip(generations, points, strict=True):
            if point.interval is not None:
                low, high = (panel.scale * end for end in point.interval)
                axes.plot([x, x], [low, high], color=COLOURS[number], linewidth=1, marker="_", zorder=2)
    if panel.zero:
        axes.axhline(0, color=SOFT, linewidth=1)
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel("generation")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    last = max((point.generation for points in panel.lines.values() for point in points), default=0)
    axes.set_xlim(-0.4, max(last, 1) + 0.4)


def paint_reliability(
    figure: "Figure", panels: Mapping[str, Mapping[str, Bins]], labels: Sequence[str]
) -> None:
    """Draw reliability diagrams, a panel a generation: accuracy of each bin by its mean confidence.

    Args:
        figure: Empty figure.
        panels: Bins of each line, by title of the panel.
        labels: Labels of all lines of the report, in the order of their colours.
    """
    columns = reliability_columns(len(panels))
    axes = grid_of(figure, len(panels), columns)
    for number, (place, (title, lines)) in enumerate(zip(axes, panels.items(), strict=True)):
        paint_bins(place, lines, labels)
        place.set_title(title, loc="left")
        if number + columns >= len(panels):
            place.set_xlabel("confidence, %")
        if number % columns == 0:
            place.set_ylabel("accuracy, %")
    if len(labels) > 1:
        add_legend(figure, axes)


def paint_bins(axes: "Axes", lines: Mapping[str, Bins], labels: Sequence[str]) -> None:
    """Draw the reliability diagram of some lines, as ``paint_reliability`` does."""
    axes.plot([0, 100], [0, 100], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    for label, bins in lines.items():
        which = labels.index(label)
        axes.plot(100 * bins.confidence, 100 * bins.accuracy, color=COLOURS[which], linewidth=1.2)
        axes.scatter(
            100 * bins.confidence,
            100 * bins.accuracy,
            s=6 + 110 * np.sqrt(bins.share),
            color=COLOURS[which],
            marker=MARKERS[which],
            alpha=0.8,
            linewidths=0,
            label=shown(label),
            zorder=3,
        )
    axes.set_aspect("equal")
    axes.set(xlim=(0, 102), ylim=(0, 102), xticks=range(0, 101, 25), yticks=range(0, 101, 25))


def reliability_columns(count: int) -> int:
    """Return the number of columns for ``count`` reliability diagrams."""
    return count if count <= _MOST_COLUMNS else _MOST_COLUMNS - 1


def paint_pairs(figure: "Figure", pairs: Sequence[Pair], labels: Sequence[str]) -> None:
    """Draw each student's accuracy against its teacher's; a ring marks what is inverted."""
    axes = figure.subplots()
    for number, label in enumerate(labels):
        own = [pair for pair in pairs if pair.line == label]
        if not own:
            continue
        axes.scatter(
            [100 * pair.teacher for pair in own],
            [100 * pair.student for pair in own],
            color=COLOURS[number],
            marker=MARKERS[number],
            s=34,
            linewidths=0,
            label=shown(label),
            zorder=3,
        )
    rings = [pair for pair in pairs if pair.inverted]
    if rings:
        axes.scatter(
            [100 * pair.teacher for pair in rings],
            [100 * pair.student for pair in rings],
            facecolors="none",
            edgecolors=INK,
            linewidths=1,
            s=120,
            label="a worse teacher has a better student",
            zorder=4,
        )
    low = min(min(axes.get_xlim()), min(axes.get_ylim()))
    high = max(max(axes.get_xlim()), max(axes.get_ylim()))
    axes.plot([low, high], [low, high], color=LINE, linewidth=1.2, zorder=1, label="as good as the teacher")
    axes.set(xlim=(low, high), ylim=(low, high))
    axes.set_aspect("equal", anchor="W")
    axes.set_xlabel("teacher's test accuracy, %")
    axes.set_ylabel("student's test accuracy, %")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
