"""Marks of pruned trials, which Optuna's plots leave out: crosses at what each reported last."""

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

_TRIAL = "Trial"  # title of an axis that counts trials; others have the name of a parameter
_NAME = "pruned, last value"
_COLOUR = "#404040"


def mark(panels: Sequence[Any], pruned: Sequence[FrozenTrial]) -> None:
    """Mark pruned trials in the panels of a figure by Matplotlib, and say so below it."""
    for panel in panels:
        places, values = _points(pruned, panel.get_xlabel())
        if values:
            if not all(isinstance(place, int | float) and not isinstance(place, bool) for place in places):
                places = [repr(place) for place in places]  # as Optuna writes choices
            panel.scatter(places, values, marker="x", color=_COLOUR)
            panel.autoscale()
    if pruned:
        panels[0].figure.text(0.5, -0.03, f"×: {_NAME}", ha="center", fontsize="medium")


def mark_in_page(figure: Any, pruned: Sequence[FrozenTrial]) -> None:
    """Mark pruned trials in a figure by Plotly."""
    for axis in list(figure.select_xaxes()):
        places, values = _points(pruned, axis.title.text)
        number = axis.plotly_name.removeprefix("xaxis")
        figure.add_scatter(
            x=places,
            y=values,
            mode="markers",
            marker={"symbol": "x", "color": _COLOUR},
            name=_NAME,
            showlegend=bool(values) and not number,
            xaxis=f"x{number}",
            yaxis=f"y{number}",
        )


def _points(pruned: Sequence[FrozenTrial], title: str) -> tuple[list[Any], list[float]]:
    """Return the places of pruned trials along the axis with that title, and their last values."""
    shown = [trial for trial in pruned if title == _TRIAL or title in trial.params]
    places = [trial.number if title == _TRIAL else trial.params[title] for trial in shown]
    return places, [trial.values[0] for trial in shown]
