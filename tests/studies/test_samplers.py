import importlib.util
from typing import get_args

import optuna
import pytest

from lineage.errors import RecipeError
from lineage.recipe import ObjectiveMetric, PrunerName, SamplerName, StudySettings, load_recipe
from lineage.studies.objectives import OBJECTIVES
from lineage.studies.samplers import PRUNERS, SAMPLERS, check_methods, make_pruner, make_sampler

HAS_CMAES = importlib.util.find_spec("cmaes") is not None


def _settings(*settings: str) -> StudySettings:
    return load_recipe("digits", [f"study.{setting}" for setting in settings]).study


def test_names_of_recipes_are_those_that_are_built() -> None:
    assert set(get_args(SamplerName)) == set(SAMPLERS)
    assert set(get_args(PrunerName)) == set(PRUNERS)
    assert set(get_args(ObjectiveMetric)) == set(OBJECTIVES)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_from_a_space(name: str) -> None:
    if name == "cmaes" and not HAS_CMAES:
        pytest.skip("cmaes is not installed: pip install '.[studies]'.")
    settings = _settings(f"sampler={name}")
    check_methods(settings)
    distributions = {
        "x": optuna.distributions.FloatDistribution(0, 1),
        "k": optuna.distributions.IntDistribution(2, 8),
    }
    study = optuna.create_study()
    grid = {"x": [0.0, 0.5, 1.0], "k": [2, 5, 8]}
    for number in range(4):
        study.sampler = make_sampler(settings, grid, number)
        trial = study.ask(distributions)
        study.tell(trial, trial.params["x"] + trial.params["k"])
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 4


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_is_built(name: str) -> None:
    options = "{lower=0.5}" if name == "threshold" else "{}"
    pruner = make_pruner(_settings(f"pruner={name}", f"pruner_options={options}"))
    assert type(pruner) is PRUNERS[name]


def test_options_reach_optuna() -> None:
    pruner = make_pruner(_settings("pruner=median", "pruner_options={n_warmup_steps=7}"))
    assert pruner._n_warmup_steps == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["sampler_options={n_startup=3}"], "but got 'n_startup'. Did you mean 'n_startup_trials'?"),
        (["sampler_options={seed=3}"], "but got 'seed'."),
        (["pruner_options={n_warmup=3}"], "but got 'n_warmup'. Did you mean 'n_warmup_steps'?"),
        (["pruner=percentile", "pruner_options={percentile=101}"], "must suit Optuna's pruner, which says: "),
        (["pruner=threshold"], "study.pruner_options must suit Optuna's pruner, which says: "),
        (["sampler=cmaes", "objective=accuracy,seconds"], "one for several objectives, such as 'tpe'"),
    ],
)
def test_options_that_cannot_hold_are_refused(settings: list[str], sentence: str) -> None:
    if "sampler=cmaes" in settings and not HAS_CMAES:
        sentence = "study.sampler 'cmaes' needs the package cmaes, which is not installed"
    with pytest.raises(RecipeError) as refused:
        check_methods(_settings(*settings))
    assert sentence in str(refused.value)
