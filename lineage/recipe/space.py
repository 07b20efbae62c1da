"""A study's space: read from the command line, and checked before the first trial."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

from lineage.errors import NotFoundError, RecipeError
from lineage.recipe.files import flatten, is_file, read_toml, set_values
from lineage.recipe.keys import number_type, resolve_key
from lineage.recipe.limits import MOST_CHARACTERS, parse_toml, shortened
from lineage.recipe.overrides import parse_overrides
from lineage.recipe.recipe import Recipe
from lineage.recipe.study import Choices, Range, Scalar, flat_axes

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_INTERVAL = re.compile(rf"({_NUMBER}):({_NUMBER})(?::(log|{_NUMBER}))?")
_INTEGERS = re.compile(r"([-+]?\d+)\.\.([-+]?\d+)(?::(log|\d+))?")
_FORM = "LOW:HIGH, LOW:HIGH:STEP, LOW:HIGH:log, A..B or X,Y,Z"
_TEMPERATURE = "student.temperature"
_SOFT_TARGETS = "student.soft_targets"
_CLASSES = "student.soft_target_classes"


def with_space(recipe: Recipe, words: Sequence[str], overrides: Sequence[str] = ()) -> Recipe:
    """Return ``recipe`` with the space that ``words`` describe, in place of its own.

    Args:
        recipe: Recipe to change, with ``overrides`` applied.
        words: TOML files, or texts ``key=RANGE`` such as ``strictness=0.4:1.0``, ``temperature=1:8:log``,
            ``strictness=0.5:1:0.25``, ``top_k=2..8`` or ``optimizer=sgd,adamw``. A file is a table of keys,
            which may stand in ``[space]`` or ``[study.space]``; other keys of its ``[study]`` replace the
            recipe's.
        overrides: Texts ``section.key=value`` of the command line, which a file must not contradict.

    Raises:
        NotFoundError: If a file cannot be read.
        RecipeError: If a word has no such form, the space is invalid, or a key is given twice.
    """
    space: dict[str, Any] = {}
    study: dict[str, Any] = {"space": space}
    for word in (part for given in words for part in _parts(given)):
        name, equals, text = word.partition("=")
        is_axis = equals and not is_file(word)
        found = {"space": {name: _parse_axis(name, text)}} if is_axis else _read_file(Path(word))
        axes = {_resolved(key): axis for key, axis in flat_axes(found.pop("space"))}
        twice = [*(space.keys() & axes.keys()), *(f"study.{key}" for key in study.keys() & found.keys())]
        if twice:
            raise RecipeError(f"--space must name each recipe key once, but has {min(twice)} twice.")
        space |= axes
        study |= found
    twice = sorted(study.keys() & parse_overrides(overrides).get("study", {}).keys())
    if twice:
        raise RecipeError(
            f"study.{twice[0]} must be given once, but comes from --space and from another option; leave one"
            " of them out."
        )
    settings = recipe.model_dump(exclude_none=True)
    settings["study"] |= study
    return Recipe.from_dict(settings)


def check_space(recipe: Recipe) -> Iterator[Recipe]:
    """Check a space, and yield those of its recipes that data have to suit.

    These are the recipes at an end of one axis, with all else as it is, and those at the ends of two axes of
    which one is a choice among names or of true and false, since such a choice decides which keys matter. Two
    values that contradict each other are left out, as their trials fail alone, unless no trial could hold.

    Raises:
        RecipeError: If there is no space, or a value of it cannot hold.
    """
    space = recipe.study.space
    if not space:
        raise RecipeError(
            "A study must have a space, but this one has none; add [study.space] to the recipe or give"
            " --space, as in --space strictness=0.4:1.0 temperature=1:8:log."
        )
    _check_temperature(recipe)
    for key, axis in space.items():
        for value in (axis.low, axis.high) if isinstance(axis, Range) else axis:
            yield set_values(recipe, {key: value})
    for first, second in combinations(space, 2):
        if not (_has_numbers(space[first]) and _has_numbers(space[second])):
            yield from _pairs(recipe, first, second)


def own_values(recipe: Recipe) -> dict[str, Any] | None:
    """Return the recipe's own values of the keys of its space, or None if one lies outside."""
    settings = flatten(recipe)
    values = {key: settings.get(key) for key in recipe.study.space}
    inside = all(_contains(axis, values[key]) for key, axis in recipe.study.space.items())
    return values if inside else None


def highest(recipe: Recipe, key: str) -> int:
    """Return the largest value of a key for integers in any recipe of the space."""
    axis = recipe.study.space.get(key)
    return int(flatten(recipe)[key] if axis is None else _ends(axis)[-1])


def _check_temperature(recipe: Recipe) -> None:
    """Refuse trials that would store soft targets of one teacher's top classes at different temperatures."""
    space = recipe.study.space
    temperatures = _ends(space.get(_TEMPERATURE, ()))
    stores = "stored" in _ends(space.get(_SOFT_TARGETS, (recipe.student.soft_targets,)))
    keeps_top = _CLASSES in space or recipe.student.soft_target_classes is not None
    if len(set(temperatures)) > 1 and stores and keeps_top:
        raise RecipeError(
            "student.temperature must not vary in a study whose stored soft targets hold the largest classes,"
            " at one temperature alone; leave it out of the space, or leave out"
            " student.soft_target_classes to store all."
        )


def _pairs(recipe: Recipe, first: str, second: str) -> Iterator[Recipe]:
    """Yield the recipes at the ends of two axes that hold.

    Raises:
        RecipeError: If an end of one axis holds with no end of the other.
    """
    space = recipe.study.space
    valid: dict[tuple[Scalar, Scalar], Recipe] = {}
    invalid: dict[tuple[Scalar, Scalar], RecipeError] = {}
    for values in product(_ends(space[first]), _ends(space[second])):
        try:
            valid[values] = set_values(recipe, dict(zip((first, second), values, strict=True)))
        except RecipeError as error:
            invalid[values] = error
    for values, problem in invalid.items():
        if any(all(values[axis] != other[axis] for other in valid) for axis in (0, 1)):
            raise problem
    yield from valid.values()


def _has_numbers(axis: Choices | Range) -> bool:
    """Return whether an axis is made of numbers, not of names or of true and false."""
    return isinstance(axis, Range) or not any(isinstance(value, bool | str) for value in axis)


def _ends(axis: Choices | Range) -> Choices:
    """Return the lowest and the highest value of an axis; all values of a choice among names."""
    if isinstance(axis, Range):
        return axis.low, axis.high
    return (min(axis), max(axis)) if axis and _has_numbers(axis) else axis


def _contains(axis: Choices | Range, value: Any) -> bool:
    if not isinstance(axis, Range):
        return value in axis
    if isinstance(value, bool) or not isinstance(value, int | float) or not axis.low <= value <= axis.high:
        return False
    steps = 0.0 if axis.step is None else (value - axis.low) / axis.step
    return abs(steps - round(steps)) < 1e-8


def _parts(given: str) -> list[str]:
    """Return the words of one argument; a file's name may hold spaces."""
    return [given] if is_file(given) else given.split()


def _resolved(name: str) -> str:
    try:
        return resolve_key(name)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _parse_axis(name: str, text: str) -> list[Any] | dict[str, Any]:
    """Parse the text behind ``key=``."""
    if len(text) > MOST_CHARACTERS:
        raise RecipeError(f"--space {shortened(name)} must read {_FORM}, but got '{shortened(text)}'.")
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
        raise RecipeError(f"--space {name} must read {_FORM}, but got '{shortened(text)}'.")
    return choices


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def _scalar(text: str) -> Scalar:
    """Parse a TOML value; a bare word is returned as it is."""
    try:
        value = parse_toml(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _read_file(path: Path) -> dict[str, Any]:
    """Read the keys of ``[study]``, the space among them, from a file that may hold nothing else.

    Raises:
        NotFoundError: If the file cannot be read.
        RecipeError: If the file has none of the three forms.
    """
    if not path.is_file():
        raise NotFoundError(
            f"--space must be key=RANGE or a TOML file, but there is no file '{shortened(str(path))}'."
        )
    table = read_toml(path)
    section = next((name for name in ("study", "space") if name in table), None)
    others = sorted(table.keys() - {section}) if section else []
    if others:
        raise RecipeError(
            f"A file of --space must hold a table of recipe keys, [space] or [study] alone, but '{path}' has"
            f" '{shortened(others[0])}' beside '{section}'; leave it out, or give the file as the study's"
            " recipe."
        )
    study = table["study"] if section == "study" else {"space": table.get("space", table)}
    if not isinstance(study, Mapping) or "space" not in study:
        raise RecipeError(f"A file of --space must have a table [study.space], but '{path}' has none.")
    if not isinstance(study["space"], Mapping):
        shown = shortened(repr(study["space"]))
        raise RecipeError(f"The space in '{path}' must be a table of recipe keys, but is {shown}.")
    return dict(study)
