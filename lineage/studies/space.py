"""A recipe's space as Optuna's distributions and grids, and its values as text."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from lineage.errors import RecipeError
from lineage.recipe import Range, StudySettings, present_name
from lineage.recipe.keys import takes_integers
from lineage.recipe.study import MOST_STEPS

V = TypeVar("V")

_MOST_POINTS = 1_000_000


def distributions(settings: StudySettings) -> dict[str, BaseDistribution]:
    """Return the distribution that each recipe key is drawn from.

    Numbers that a grid lists get the interval that holds them, so that plots have a scale.
    """
    as_grid = settings.sampler == "grid"
    return {key: _distribution(key, axis, as_grid) for key, axis in settings.space.items()}


def grid(settings: StudySettings) -> dict[str, list[Any]]:
    """Return all values of each recipe key for the grid sampler; nothing for another sampler.

    Raises:
        RecipeError: If a key has infinitely many values, or the grid has more points than Optuna, which
            lists them all, can hold.
    """
    if settings.sampler != "grid":
        return {}
    values = {key: _values(key, axis) for key, axis in settings.space.items()}
    num_points = math.prod(map(len, values.values()))
    if num_points > _MOST_POINTS:
        raise RecipeError(
            f"A grid must have at most {_MOST_POINTS:,} points, but this space has {num_points:,}; give fewer"
            " choices or larger steps, or use another sampler."
        )
    return values


def describe_space(settings: StudySettings) -> dict[str, Any]:
    """Return the space as plain values, by which a study that is continued is compared."""
    if settings.sampler == "grid":
        return dict(grid(settings))
    return {key: json.loads(distribution_to_json(found)) for key, found in distributions(settings).items()}


def with_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by recipe key, from values whose keys may have the names of an earlier version."""
    return {present_name(key): value for key, value in values.items()}


def shown(values: Mapping[str, Any]) -> str:
    """Return the values that a trial tries as text, such as ``strictness 0.8, temperature 2.5``."""
    return ", ".join(f"{name} {shown_value(value)}" for name, value in with_short_names(values).items())


def with_short_names(values: Mapping[str, V]) -> dict[str, V]:
    """Return values by recipe key under the shortest ends of the keys that tell them apart."""
    return {_short(key, values): value for key, value in values.items()}


def _short(key: str, keys: Collection[str]) -> str:
    parts = key.split(".")
    ends = (".".join(parts[start:]) for start in reversed(range(len(parts))))
    others = [other for other in keys if other != key]
    return next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), key)


def shown_value(value: Any) -> str:
    """Return a value as text, a number with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _distribution(key: str, axis: Range | Sequence[Any], as_grid: bool) -> BaseDistribution:
    if not isinstance(axis, Range):
        if as_grid and all(isinstance(value, int | float) and not isinstance(value, bool) for value in axis):
            whole = takes_integers(key, axis)
            return (IntDistribution if whole else FloatDistribution)(min(axis), max(axis))
        return CategoricalDistribution(axis)
    if takes_integers(key, (axis.low, axis.high, axis.step or 1)):
        return IntDistribution(int(axis.low), int(_last(axis)), log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(axis.low, _last(axis), log=axis.log, step=axis.step)


def _last(axis: Range) -> float:
    """Return the highest value, which is below the range's upper end if the steps miss that."""
    if axis.step is None:
        return axis.high
    low, high, step = (Decimal(str(number)) for number in (axis.low, axis.high, axis.step))
    return float(low + (high - low) // step * step)


def _values(key: str, axis: Range | Sequence[Any]) -> list[Any]:
    if not isinstance(axis, Range):
        return list(axis)
    whole = takes_integers(key, (axis.low, axis.high, axis.step or 1))
    step = axis.step or (1 if whole else None)
    if step is None:
        raise RecipeError(
            f"The grid sampler must know every value, but {key} takes any from {axis.low:g} to {axis.high:g};"
            " give it choices or a step."
        )
    low, high, distance = (Decimal(str(number)) for number in (axis.low, axis.high, step))
    count = int((high - low) // distance) + 1
    if count > MOST_STEPS:
        raise RecipeError(
            f"The grid sampler must have at most {MOST_STEPS:,} values of {key}, but there are {count:,};"
            " give fewer choices or a larger step."
        )
    return [(int if whole else float)(low + distance * place) for place in range(count)]
