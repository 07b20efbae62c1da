import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lineage.errors import RecipeError
from lineage.recipe import StudySettings, load_recipe, with_space
from lineage.studies.space import distributions, grid, shown, with_short_names


def _settings(*words: str, sampler: str = "tpe") -> StudySettings:
    return with_space(load_recipe("digits", [f"study.sampler={sampler}"]), words).study


def test_axes_become_distributions_of_the_keys_type() -> None:
    words = ["strictness=0.4:1", "temperature=1..8", "top_k=2..8:3", "width=4..64:log", "optimizer=sgd,adamw"]
    assert distributions(_settings(*words)) == {
        "patriarch.strictness": FloatDistribution(0.4, 1.0),
        "student.temperature": FloatDistribution(1.0, 8.0, step=1),
        "patriarch.top_k": IntDistribution(2, 8, step=3),
        "network.width": IntDistribution(4, 64, log=True),
        "training.optimizer": CategoricalDistribution(("sgd", "adamw")),
    }


def test_range_ends_at_its_last_step() -> None:
    found = distributions(_settings("strictness=0.4:1:0.25", "top_k=2..9:3"))
    assert found["patriarch.strictness"] == FloatDistribution(0.4, 0.9, step=0.25)
    assert found["patriarch.top_k"] == IntDistribution(2, 8, step=3)


def test_grid_has_every_value_without_rounding_errors() -> None:
    settings = _settings("strictness=0.1:0.7:0.1", "top_k=2..9:3", "optimizer=sgd,adamw", sampler="grid")
    assert grid(settings) == {
        "patriarch.strictness": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
        "patriarch.top_k": [2, 5, 8],
        "training.optimizer": ["sgd", "adamw"],
    }
    assert distributions(_settings("strictness=0.5,1.0", sampler="grid")) == {
        "patriarch.strictness": FloatDistribution(0.5, 1.0)
    }
    assert grid(_settings("strictness=0.5,1.0")) == {}


def test_values_are_shown_by_short_names() -> None:
    assert shown({"patriarch.strictness": 0.123456, "patriarch.top_k": 3}) == "strictness 0.1235, top_k 3"


def test_short_names_tell_keys_apart() -> None:
    keys = ["network.width", "student.network.width", "student.options.beta", "network.options.beta", "top"]
    assert list(with_short_names(dict.fromkeys(keys, 0))) == [
        "network.width", "student.network.width", "student.options.beta", "network.options.beta", "top",
    ]  # fmt: skip
    assert list(with_short_names({"student.network.width": 1, "training.lr": 2})) == ["width", "lr"]


def test_grid_of_more_points_than_can_be_listed_is_refused() -> None:
    axes = "strictness=0.001:1.0:0.001", "temperature=1:2:0.001", "label_weight=0:1:0.001"
    with pytest.raises(RecipeError, match=r"at most 1,000,000 points, but this space has 1,002,001,000"):
        grid(_settings(*axes, sampler="grid"))
