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

from lineage.formats import counted
from lineage.studies.pruned_marks import mark, mark_in_page
from lineage.studies.samplers import EXTRA

_DOTS_PER_INCH = 110
_AXES = ("patriarch.strictness", "student.temperature")
_INCHES = (7.0, 4.8)
_PAGE = "study.html"
_INCHES_PER_SLICE = 3.2
_TRIALS_PER_KEY = 4


@dataclass(frozen=True)
class _Plot:
    """One plot.

    Attributes:
        name: Name of the file without its ending.
        draw: Function that draws it with a module of Optuna's plots, the one for Matplotlib or for Plotly.
        width: Width in inches.
        marks_pruned: Whether an axis counts trials or shows one key, so that pruned trials have a place.
    """

    name: str
    draw: Callable[[Any], Any]
    width: float = _INCHES[0]
    marks_pruned: bool = False


def draw(study: optuna.Study, names: Sequence[str], folder: Path) -> tuple[list[Path], list[str]]:
    """Write all plots that the study's trials allow into ``folder``.

    Args:
        study: Study whose parameters have the present names of recipe keys.
        names: Names of the objectives.
        folder: Existing folder.

    Returns:
        Files, and sentences about plots that are left out.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 2:
        return [], [f"Plots need at least 2 complete trials, but there are {len(complete)}."]
    plots, keys = _plots(study, names, complete), _varied(complete)
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    pruned = [trial for trial in pruned if trial.values]  # others were pruned before they reported anything
    remarks = []
    if keys and _are_too_few(complete):
        left_out = "The importances of keys" if len(keys) == 1 else "The importances of keys and a contour"
        remarks.append(
            f"{left_out} need at least {_fewest(keys)} complete trials for {counted(len(keys), 'key')}, but"
            f" there are {len(complete)}, so they are left out."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the plots are experimental, and warn about what they leave out
        files = [_write_png(plot, pruned, folder) for plot in plots]
        if importlib.util.find_spec("plotly") is None:
            remarks.append(f"Interactive plots need the package plotly, which is not installed: {EXTRA}.")
        else:
            files.append(_write_page(plots, pruned, study.study_name, folder))
    return files, remarks


def trials_for_importances(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials if they are enough to estimate importances from; else none."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [] if _are_too_few(complete) else complete


def _varied(complete: Sequence[FrozenTrial]) -> list[str]:
    """Return the keys of which the trials tried several values."""
    keys = complete[0].params if complete else ()
    return [key for key in keys if len({trial.params[key] for trial in complete}) > 1]


def _fewest(keys: Sequence[str]) -> int:
    """Return the least number of trials by which importances and contours of some keys are no guesses."""
    return _TRIALS_PER_KEY * len(keys)


def _are_too_few(complete: Sequence[FrozenTrial]) -> bool:
    return len(complete) < _fewest(_varied(complete))


def _plots(study: optuna.Study, names: Sequence[str], complete: Sequence[FrozenTrial]) -> list[_Plot]:
    """Return the plots to draw: some for each objective, and the Pareto front of several."""
    keys = _varied(complete)
    estimates = not _are_too_few(complete)
    plots = []
    for place, name in enumerate(names):
        several = len(names) > 1
        # Optuna takes a target only with its name
        target: dict[str, Any] = {"target": objective_value(place)} if several else {}
        target["target_name"] = name
        end = f"-{name}" if several else ""
        history = partial(_call, "plot_optimization_history", study, target)
        plots.append(_Plot(f"history{end}", history, marks_pruned=True))
        if keys:
            width = max(_INCHES[0], _INCHES_PER_SLICE * len(keys))
            slices = partial(_call, "plot_slice", study, target | {"params": keys})
            plots.append(_Plot(f"slice{end}", slices, width, marks_pruned=True))
        if len(keys) > 1 and estimates:
            contour = partial(_call, "plot_contour", study, target | {"params": _pair(keys)})
            plots.append(_Plot(f"contour{end}", contour))
        if keys and estimates and len({trial.values[place] for trial in complete}) > 1:
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


def _write_png(plot: _Plot, pruned: Sequence[FrozenTrial], folder: Path) -> Path:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import optuna.visualization.matplotlib as plots

    file = folder / f"{plot.name}.png"
    with plt.rc_context():  # Optuna sets a style for the whole process
        drawn = plot.draw(plots)
        panels = list(drawn.flat) if hasattr(drawn, "flat") else [drawn]
        if plot.marks_pruned:
            mark(panels, pruned)
        for panel in panels:
            _set_ticks(panel)
        figure = panels[0].figure
        figure.set_size_inches(plot.width, _INCHES[1])
        figure.savefig(file, dpi=_DOTS_PER_INCH, bbox_inches="tight")
        plt.close(figure)
    return file


def _set_ticks(panel: Any) -> None:
    """Count trials in whole numbers, and write few plain numbers along logarithmic axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for axis in (panel.xaxis, panel.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    if panel.get_xlabel() == "Trial":
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _write_page(plots: Sequence[_Plot], pruned: Sequence[FrozenTrial], name: str, folder: Path) -> Path:
    """Write one page that needs no network, with Plotly's script inside."""
    import optuna.visualization as interactive

    figures = [plot.draw(interactive) for plot in plots]
    for plot, figure in zip(plots, figures, strict=True):
        if plot.marks_pruned:
            mark_in_page(figure, pruned)
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=place == 0) for place, figure in enumerate(figures)
    ]
    file = folder / _PAGE
    page = f"<!doctype html><meta charset='utf-8'><title>Study {name}</title>"
    file.write_text("\n".join([page, *parts]), encoding="utf-8")
    return file
