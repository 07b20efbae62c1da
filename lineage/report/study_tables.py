"""Tables of a study, from plain values; whoever calls prints them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Column, Table

from lineage.formats import MISSING, quantity
from lineage.report.table_style import add_row, new_table, numeric


@dataclass(frozen=True)
class TrialRow:
    """One trial as it is shown.

    Attributes:
        number: Optuna's.
        state: How it ended, in lower case.
        values: What was tried, by short name, as texts.
        objectives: By name of the metric.
        trained: How many of its generations were trained for it.
        generations: How many it has.
        version: ``vN`` of its last generation.
        remark: Such as ``retry of 3``.
    """

    number: int
    state: str
    values: Mapping[str, str]
    objectives: Mapping[str, float]
    trained: int
    generations: int
    version: str
    remark: str


def trials_table(
    name: str, rows: Sequence[TrialRow], metrics: Mapping[str, str], caption: Sequence[str]
) -> Table:
    """All trials, one row each: the last word of ``lineage study``.

    Args:
        name: Of the study.
        rows: In the order to show.
        metrics: Titles of the objectives, by metric, which says how they are written.
        caption: Sentences below.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    table = new_table(
        *numeric("trial", *keys, *metrics.values(), "trained", "version"),
        Column("state", overflow="fold"),
        title=name,
        caption=caption,
    )
    for row in rows:
        add_row(
            table,
            str(row.number),
            *(row.values.get(key, MISSING) for key in keys),
            *(quantity(metric, row.objectives.get(metric)) for metric in metrics),
            f"{row.trained} of {row.generations}",
            row.version or MISSING,
            f"{row.state}, {row.remark}" if row.remark else row.state,
        )
    return table


def importances_table(importances: Mapping[str, Mapping[str, float]]) -> Table:
    """How much each key matters to each objective, as shares of 1.

    Args:
        importances: By objective, then by short name of the key.
    """
    keys = list(dict.fromkeys(key for found in importances.values() for key in found))
    table = new_table("key", *numeric(*(f"importance\nto {name}" for name in importances)))
    for key in keys:
        add_row(
            table, key, *(f"{found[key]:.2f}" if key in found else MISSING for found in importances.values())
        )
    return table
