"""Draws Optuna's plots of a study: PNG files by Matplotlib, and an HTML page by Plotly if installed."""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lineage.studies.samplers import EXTRA

_DOTS_PER_INCH = 110
_AXES = ("patriarch.strictness", "student.temperature")
_INCHES = (7.0, 4.8)
_PAGE = "study.html"
_INCHES_PER_SLICE = 3.2


@dataclass(frozen=True)
class _Plot:
    """One plot.

    Attributes:
        name: Name of the file without its ending.
        draw: Function that draws it with a module of Optuna's plots, the one for Matplotlib or for Plotly.
        width: Width in inches.
    """

    name: str
    draw: Callable[[Any], Any]
    width: float = _INCHES[0]


def draw(study: optuna.Study, names: Sequence[str], folder: Path) -> tuple[list[Path], list[str]]:
    """Write all plots that the study's trials allow into ``folder``.

    Args:
        study: Study whose parameters have the present names of recipe keys.
        names: Names of the objectives.
        folder: Existing folder.

    Returns:
        Files, and sentences about plots that could not be drawn.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 2:
        return [], [f"Plots need at least 2 complete trials, but there are {len(complete)}."]
    plots = _plots(study, names, complete)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the plots are experimental, and warn about what they leave out
        files = [_write_png(plot, folder) for plot in plots]
        if importlib.util.find_spec("plotly") is None:
            return files, [f"Interactive plots need the package plotly, which is not installed: {EXTRA}."]
        return [*files, _write_page(plots, study.study_name, folder)], []


def _plots(study: optuna.Study, names: Sequence[str], complete: Sequence[FrozenTrial]) -> list[_Plot]:
    """Return the plots to draw: some for each objective, and the Pareto front of several."""
    keys = [key for key in complete[0].params if len({trial.params[key] for trial in complete}) > 1]
    plots = []
    for place, name in enumerate(names):
        several = len(names) > 1
        # Optuna takes a target only with its name
        target: dict[str, Any] = {"target": objective_value(place)} if several else {}
        target["target_name"] = name
        end = f"-{name}" if several else ""
        plots.append(_Plot(f"history{end}", partial(_call, "plot_optimization_history", study, target)))
        if keys:
            width = max(_INCHES[0], _INCHES_PER_SLICE * len(keys))
            slices = partial(_call, "plot_slice", study, target | {"params": keys})
            plots.append(_Plot(f"slice{end}", slices, width))
        if len(keys) > 1:
            contour = partial(_call, "plot_contour", study, target | {"params": _pair(keys)})
            plots.append(_Plot(f"contour{end}", contour))
        if keys and len({trial.values[place] for trial in complete}) > 1:
            plots.append(_Plot(f"importances{end}", partial(_call, "plot_param_importances", study, target)))
    if len(names) in (2, 3):
        plots.append(
            _Plot("front", partial(_call, "plot_pareto_front", study, {"target_names": list(names)}))
        )
    return plots


def _call(function: str, study: optuna.Study, options: dict[str, Any], module: Any) -> Any:
    return getattr(module, function)(study, **options)


def objective_value(place: int) -> Callable[[FrozenTrial], float]:
    """Return a function that reads one of several objectives of a trial."""
    return lambda trial: float(trial.values[place])


def _pair(keys: Sequence[str]) -> list[str]:
    """Return the two keys of the contour: strictness and temperature if they vary, else the first two."""
    wanted = [key for key in _AXES if key in keys]
    return [*wanted, *(key for key in keys if key not in wanted)][:2]


def _write_png(plot: _Plot, folder: Path) -> Path:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import optuna.visualization.matplotlib as plots

    drawn = plot.draw(plots)
    axes = drawn.flat[0] if hasattr(drawn, "flat") else drawn
    figure = axes.figure
    figure.set_size_inches(plot.width, _INCHES[1])
    file = folder / f"{plot.name}.png"
    figure.savefig(file, dpi=_DOTS_PER_INCH, bbox_inches="tight")
    plt.close(figure)
    return file


def _write_page(plots: Sequence[_Plot], name: str, folder: Path) -> Path:
    """Write one page that needs no network, with Plotly's script inside."""
    import optuna.visualization as interactive

    figures = [plot.draw(interactive) for plot in plots]
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=place == 0) for place, figure in enumerate(figures)
    ]
    file = folder / _PAGE
    page = f"<!doctype html><meta charset='utf-8'><title>Study {name}</title>"
    file.write_text("\n".join([page, *parts]), encoding="utf-8")
    return file
