"""Optuna's samplers and pruners by the names that a recipe gives them."""

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, GridSampler
from optuna.trial import FrozenTrial, TrialState

from lineage.errors import RecipeError, suggestion
from lineage.recipe import StudySettings

EXTRA = "pip install '.[studies]' in the clone"

SAMPLERS: dict[str, type[BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "grid": GridSampler,
    "random": optuna.samplers.RandomSampler,
    "qmc": optuna.samplers.QMCSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
}
PRUNERS: dict[str, type[BasePruner]] = {
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "successive-halving": optuna.pruners.SuccessiveHalvingPruner,
    "patient": optuna.pruners.PatientPruner,
    "threshold": optuna.pruners.ThresholdPruner,
    "none": optuna.pruners.NopPruner,
}

_DEFAULTS: dict[str, dict[str, Any]] = {
    "percentile": {"percentile": 25.0},
    "patient": {"wrapped_pruner": None, "patience": 3},
}
_NEEDS_CMAES = "cmaes"
_SINGLE_OBJECTIVE = {"cmaes"}
_SAME_SEED = {"grid", "qmc"}  # one sequence, from which every trial takes the next point
_SEEDS = 2**32


class _Grid(GridSampler):
    """Grid sampler without Optuna's ``study.stop``, which works under ``optimize`` alone.

    ``StudyStore`` knows itself when the grid is complete.
    """

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Do nothing."""


def quieten() -> None:
    """Silence Optuna's log for a command line; its errors come as exceptions."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def check_methods(settings: StudySettings) -> None:
    """Check that sampler and pruner can be built.

    Raises:
        RecipeError: If an option is unknown or invalid, or a package is missing.
    """
    if settings.sampler == _NEEDS_CMAES and importlib.util.find_spec("cmaes") is None:
        raise RecipeError(f"study.sampler 'cmaes' needs the package cmaes, which is not installed: {EXTRA}.")
    if settings.sampler in _SINGLE_OBJECTIVE and len(settings.objective) > 1:
        raise RecipeError(
            f"study.sampler must be one for several objectives, such as 'tpe' or 'nsgaii', but got"
            f" '{settings.sampler}' for {len(settings.objective)}."
        )
    make_sampler(settings, {"x": [0]}, 0)
    make_pruner(settings)


def make_sampler(settings: StudySettings, grid: Mapping[str, Sequence[Any]], number: int) -> BaseSampler:
    """Build the sampler for one trial.

    Its random numbers depend on the study's seed and the trial's number alone, so a study that is continued,
    or worked on by several processes, draws nothing twice.

    Args:
        settings: Settings of the study.
        grid: Values by Optuna's parameter name, for the grid sampler.
        number: Number of the trial.

    Raises:
        RecipeError: If an option is unknown or invalid.
    """
    name = settings.sampler
    seed = settings.seed if name in _SAME_SEED else (settings.seed * 1_000_003 + number) % _SEEDS
    if name == "grid":
        _check_options("sampler", GridSampler, settings.sampler_options, {"search_space", "seed"})
        return _Grid(grid, seed=seed)
    sampler: BaseSampler = _build("sampler", SAMPLERS[name], settings.sampler_options, seed=seed)
    return sampler


def make_pruner(settings: StudySettings) -> BasePruner:
    """Build the study's pruner.

    Raises:
        RecipeError: If an option is unknown or invalid.
    """
    name = settings.pruner_in_use
    options = {} if name == "none" else settings.pruner_options
    pruner: BasePruner = _build("pruner", PRUNERS[name], _DEFAULTS.get(name, {}) | options)
    return pruner


def _build(kind: str, builder: Callable[..., Any], options: Mapping[str, Any], **fixed: Any) -> Any:
    _check_options(kind, builder, options, set(fixed))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return builder(**options, **fixed)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"study.{kind}_options must suit Optuna's {kind}, which says: {error}") from error


def _check_options(
    kind: str, builder: Callable[..., Any], options: Mapping[str, Any], ours: set[str]
) -> None:
    """Refuse options that ``builder`` does not take, or that ``lineage`` sets itself (``ours``)."""
    known = sorted(set(inspect.signature(builder).parameters) - ours)
    for name in options:
        if name not in known:
            raise RecipeError(
                f"study.{kind}_options takes {', '.join(known) or 'nothing'}, but got"
                f" '{name}'.{suggestion(name, known)}"
            )
