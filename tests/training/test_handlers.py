import math
from itertools import pairwise
from typing import get_args

import pytest
from ignite.engine import Engine
from torch import nn

from lineage.errors import RecipeError
from lineage.recipe import ScheduleName
from lineage.training.handlers import SCHEDULES, attach_learning_rate, build_schedule
from lineage.training.optimizers import build_optimizer

SETTINGS = {"epochs": 10, "milestones": (4, 8), "gamma": 0.1}
SGD_SETTINGS = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}


def test_schedules_are_those_a_recipe_names() -> None:
    assert set(SCHEDULES) == set(get_args(ScheduleName))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_starts_at_the_base_rate_and_never_rises(name: str) -> None:
    schedule = build_schedule(name, 0, SETTINGS)
    factors = [schedule(epoch / 10) for epoch in range(101)]
    assert factors[0] == 1
    assert all(later <= earlier for earlier, later in pairwise(factors))


def test_cosine_ends_at_zero_and_is_half_in_the_middle() -> None:
    schedule = build_schedule("cosine", 0, SETTINGS)
    assert schedule(5) == pytest.approx(0.5)
    assert schedule(2.5) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert schedule(10) == pytest.approx(0)
    assert schedule(12) == pytest.approx(0)


def test_step_multiplies_at_each_milestone() -> None:
    schedule = build_schedule("step", 0, SETTINGS)
    assert [schedule(epoch) for epoch in (0, 3.99, 4, 7.99, 8, 9.9)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_warmup_rises_linearly_into_the_schedule() -> None:
    schedule = build_schedule("constant", 2, SETTINGS)
    assert [schedule(epoch) for epoch in (0, 0.5, 1, 2, 5)] == [0, 0.25, 0.5, 1, 1]


def test_schedule_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"Unknown schedule 'cosin'.* Did you mean 'cosine'\?"):
        build_schedule("cosin", 0, SETTINGS)


def test_learning_rate_is_a_function_of_the_step() -> None:
    optimizer = build_optimizer("sgd", nn.Linear(1, 1), decay_norm_and_bias=False, **SGD_SETTINGS)
    rates: list[float] = []
    engine = Engine(lambda _engine, _batch: rates.append(optimizer.param_groups[1]["lr"]))
    attach_learning_rate(engine, optimizer, 0.1, lambda epoch: 1 - epoch / 2, accumulation=2)
    engine.run(range(4), max_epochs=2)
    assert rates == pytest.approx([0.1, 0.1, 0.075, 0.075, 0.05, 0.05, 0.025, 0.025])
