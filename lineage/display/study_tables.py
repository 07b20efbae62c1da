"""Tables of a study, built from plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Column, Table

from lineage.display.table_style import add_row, new_table, numeric
from lineage.formats import MISSING, quantity


@dataclass(frozen=True)
class TrialRow:
    """One trial as a table shows it.

    Attributes:
        number: Optuna's number of the trial.
        state: State of the trial in lower case.
        values: Values that were tried, as texts by recipe key without its section.
        objectives: Values of the objectives by metric.
        trained: Number of its generations that were trained for it.
        generations: Number of its generations.
        version: Version of its last generation, ``vN``.
        remark: Remark behind the state, such as ``retry of 3``.
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
    """Return a table of all trials, one row each.

    Args:
        name: Name of the study.
        rows: Trials in the order to show.
        metrics: Titles of the objectives by metric; the metric decides their unit.
        caption: Sentences below the table.
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
    """Return a table of how much each key matters to each objective, as shares of 1.

    Args:
        importances: Shares by objective, then by recipe key without its section.
    """
    keys = list(dict.fromkeys(key for shares in importances.values() for key in shares))
    table = new_table("key", *numeric(*(f"importance\nto {name}" for name in importances)))
    for key in keys:
        add_row(
            table,
            key,
            *(f"{shares[key]:.2f}" if key in shares else MISSING for shares in importances.values()),
        )
    return table
