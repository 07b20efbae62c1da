"""Figures for a notebook: each draws on Matplotlib's axes and returns them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lineage.display.figures import curves
from lineage.display.figures.classes import paint_confusion
from lineage.display.figures.style import MOST_LINES, axes_in_style
from lineage.display.image_data import read_measured
from lineage.errors import UsageError
from lineage.evaluation.compare import compare_lines, group_lines
from lineage.evaluation.report import choose_lines
from lineage.evaluation.report_values import bins_of, metric_panel, order_classes
from lineage.registry.family.lookup import find_version, read_family

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE, _SQUARE = (5.5, 3.4), (4.6, 4.2)  # inches


def plot_metric(
    names: str | Sequence[str], metric: str = "test_accuracy", *, ax: "Axes | None" = None
) -> "Axes":
    """Draw a metric of families by generation: means over seeds, with 95 % intervals where there are several.

    Args:
        names: Name of a registered model, or several; one that holds several recipes has a line for each. Of
            more than six lines, those with the most versions are drawn.
        metric: Key of ``Version.metrics``.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        UsageError: If no name is given, one is given twice or holds no generation, or no version has the
            metric.
        NotFoundError: If the store holds no such model.
        IntegrityError: If tags of a version were altered.
        RegistryError: If the store does not answer.

    Examples:
        >>> axes = lineage.plot_metric(["digits", "digits-strict"])
        >>> axes.figure.savefig("accuracy.pdf")
    """
    lines, _ = choose_lines(group_lines([read_family(name) for name in _listed(names)]))
    title = metric.replace("_", " ")
    panel = metric_panel(title, compare_lines(lines, metric))

    def paint(axes: "Axes") -> None:
        curves.paint_panel(axes, panel, list(lines))
        if len(lines) > 1:
            axes.legend()

    return axes_in_style(_WIDE, paint, ax)


def plot_reliability(uris: str | Sequence[str], *, ax: "Axes | None" = None) -> "Axes":
    """Draw reliability diagrams: accuracy by confidence, from what versions predicted on their test parts.

    Args:
        uris: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` of a version, or of at most six.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes. Above the broken line a network is less sure than it may be; larger marks hold more images.

    Raises:
        UsageError: If a URI has another form, or there are none or too many.
        NotFoundError: If the store does not hold a version, or no predictions of it.
        IntegrityError: If they are damaged.
        RegistryError: If the store does not answer.
    """
    versions = [find_version(uri) for uri in _listed(uris)]
    if not 1 <= len(versions) <= MOST_LINES:
        raise UsageError(
            f"A reliability diagram must be of 1 to {MOST_LINES} versions, but got {len(versions)};"
            " name fewer, or draw several."
        )
    bins = {
        version.id: bins_of([read_measured(version.model_id, version.uri).predictions])
        for version in versions
    }

    def paint(axes: "Axes") -> None:
        curves.paint_bins(axes, bins, list(bins))
        axes.set(xlabel="confidence, %", ylabel="accuracy, %")
        axes.legend()

    return axes_in_style(_SQUARE, paint, ax)


def plot_confusion(uri: str, *, ax: "Axes | None" = None) -> "Axes":
    """Draw which classes a version mistakes for which on its test part, ordered by superclass if known.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        ax: Axes to draw on; by default those of a new figure.

    Returns:
        The axes. Each row is a class: the shares of its images that are put into each class. The diagonal,
        which is the accuracy of the class, is left out, so that the mistakes show.

    Raises:
        UsageError: If ``uri`` has another form.
        NotFoundError: If the store does not hold the version, or no predictions of it.
        IntegrityError: If they are damaged.
        RegistryError: If the store does not answer.
    """
    version = find_version(uri)
    predicted, data = read_measured(version.model_id, version.uri)
    counts = predicted.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    title = f"mistakes of {version.id}"
    matrix = order_classes(title, shares, data.class_names, data.superclasses)
    return axes_in_style(_SQUARE, lambda axes: paint_confusion(axes, matrix), ax)


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names
