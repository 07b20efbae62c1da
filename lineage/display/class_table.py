"""What ``lineage show --classes`` prints: each class of a test part, and what it is mistaken for."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Column, Table

from lineage.display.table_style import add_row, new_table, numeric
from lineage.formats import MISSING, quantity
from lineage.registry.store.predicted import Predictions

_MOST_MISTAKES = 3  # in a table


@dataclass(frozen=True)
class Mistake:
    """Images of one class that are put into another one.

    Attributes:
        name: Name of the other class.
        images: Number of the images.
    """

    name: str
    images: int


@dataclass(frozen=True)
class ClassRow:
    """One class of a test part.

    Attributes:
        name: Name of the class.
        images: Number of its images.
        accuracy: Share of them that are put into it; None if there are none.
        mistaken_for: Other classes that its images are put into, the most frequent one first.
    """

    name: str
    images: int
    accuracy: float | None
    mistaken_for: Sequence[Mistake]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for ``--json``."""
        return asdict(self)


def class_rows(predicted: Predictions) -> list[ClassRow]:
    """Return all classes in the order of the labels, from predictions with class names."""
    rows = []
    for number, (counts, accuracy) in enumerate(
        zip(predicted.confusion, predicted.class_accuracy, strict=True)
    ):
        others = [int(place) for place in np.argsort(-counts, kind="stable") if place != number]
        mistakes = [Mistake(predicted.class_names[o], int(counts[o])) for o in others if counts[o]]
        share = None if math.isnan(accuracy) else float(accuracy)
        rows.append(ClassRow(predicted.class_names[number], int(counts.sum()), share, mistakes))
    return rows


def classes_table(uri: str, rows: Sequence[ClassRow]) -> Table:
    """Return a table with a row for each class, those that are put into their own class least first."""
    table = new_table(
        "class",
        *numeric("images", "accuracy"),
        Column("mistaken for", overflow="fold"),
        title=f"Classes of {uri}",
    )
    for row in sorted(rows, key=lambda row: 2 if row.accuracy is None else row.accuracy):
        shown = ", ".join(f"{mistake.name} {mistake.images}" for mistake in row.mistaken_for[:_MOST_MISTAKES])
        more = len(row.mistaken_for) - _MOST_MISTAKES
        mistakes = f"{shown} and {more} more" if more > 0 else shown
        add_row(table, row.name, str(row.images), quantity("accuracy", row.accuracy), mistakes or MISSING)
    return table
