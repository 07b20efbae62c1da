"""A study's space from the command line, and the recipes that it holds."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lineage.errors import NotFoundError, RecipeError
from lineage.recipe.files import flatten, read_toml, set_values
from lineage.recipe.keys import number_type, resolve_key
from lineage.recipe.recipe import Recipe
from lineage.recipe.study import Choices, Range

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_INTERVAL = re.compile(rf"({_NUMBER}):({_NUMBER})(?::(log|{_NUMBER}))?")
_INTEGERS = re.compile(r"([-+]?\d+)\.\.([-+]?\d+)(?::(log|\d+))?")
_FORM = "LOW:HIGH, LOW:HIGH:STEP, LOW:HIGH:log, A..B or X,Y,Z"


def with_space(recipe: Recipe, words: Sequence[str]) -> Recipe:
    """``recipe`` with the space that ``words`` describe, in place of its own.

    Args:
        recipe: To change.
        words: Each a TOML file, or ``key=RANGE`` as in ``strictness=0.4:1.0``, ``temperature=1:8:log``,
            ``strictness=0.5:1:0.25``, ``top_k=2..8`` or ``optimizer=sgd,adamw``.

    Raises:
        NotFoundError: If a file cannot be read.
        RecipeError: If a word has no such form, or the space cannot hold.
    """
    space: dict[str, Any] = {}
    for word in (part for given in words for part in _parts(given)):
        name, equals, text = word.partition("=")
        found = {_resolved(name): _parse_axis(name, text)} if equals else _read_file(Path(word))
        twice = space.keys() & found.keys()
        if twice:
            raise RecipeError(f"--space must name each recipe key once, but has {min(twice)} twice.")
        space |= found
    settings = recipe.model_dump(exclude_none=True)
    settings["study"]["space"] = space
    return Recipe.from_dict(settings)


def check_space(recipe: Recipe) -> Iterator[Recipe]:
    """Every recipe at an end of one axis, with all else as it is; each holds by itself.

    Raises:
        RecipeError: If there is no space, or a value of it cannot hold.
    """
    if not recipe.study.space:
        raise RecipeError(
            "A study must have a space, but this one has none; add [study.space] to the recipe or give"
            " --space, as in --space strictness=0.4:1.0 temperature=1:8:log."
        )
    for key, axis in recipe.study.space.items():
        for value in (axis.low, axis.high) if isinstance(axis, Range) else axis:
            yield set_values(recipe, {key: value})


def own_values(recipe: Recipe) -> dict[str, Any] | None:
    """The recipe's own values of the keys of its space, or None where one lies outside."""
    settings = flatten(recipe)
    values = {key: settings.get(key) for key in recipe.study.space}
    inside = all(_holds(axis, values[key]) for key, axis in recipe.study.space.items())
    return values if inside else None


def _holds(axis: Choices | Range, value: Any) -> bool:
    if not isinstance(axis, Range):
        return value in axis
    if isinstance(value, bool) or not isinstance(value, int | float) or not axis.low <= value <= axis.high:
        return False
    steps = 0.0 if axis.step is None else (value - axis.low) / axis.step
    return abs(steps - round(steps)) < 1e-8


def _parts(given: str) -> list[str]:
    """The words of one argument; a file's name may hold spaces."""
    return [given] if Path(given).is_file() else given.split()


def _resolved(name: str) -> str:
    try:
        return resolve_key(name)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _parse_axis(name: str, text: str) -> list[Any] | dict[str, Any]:
    """What stands behind ``key=``."""
    if match := _INTEGERS.fullmatch(text):
        low, high, more = match.groups()
        table = {"low": int(low), "high": int(high)}
        return table | ({"log": True} if more == "log" else {"step": int(more or 1)})
    if match := _INTERVAL.fullmatch(text):
        low, high, more = match.groups()
        ends = {"low": _number(low), "high": _number(high)}
        return ends | ({"log": True} if more == "log" else {"step": _number(more)} if more else {})
    choices = [_scalar(item) for item in text.split(",")]
    if "" in choices or (number_type(_resolved(name)) and any(isinstance(c, str) for c in choices)):
        raise RecipeError(f"--space {name} must read {_FORM}, but got '{text}'.")
    return choices


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def _scalar(text: str) -> Any:
    """A TOML value, or a bare word."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _read_file(path: Path) -> Mapping[str, Any]:
    """The space of a TOML file: a recipe's ``[study.space]``, a table ``[space]``, or the whole file."""
    if not path.is_file():
        raise NotFoundError(f"--space must be key=RANGE or a TOML file, but there is no file '{path}'.")
    table = read_toml(path)
    inner = table.get("study", {}).get("space", table.get("space", table))
    if not isinstance(inner, dict):
        raise RecipeError(f"The space in '{path}' must be a table of recipe keys, but got {inner!r}.")
    return inner
