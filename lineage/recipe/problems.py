"""Turns what pydantic finds wrong in a recipe into one sentence."""

import re
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lineage.errors import suggestion

FORMS = {
    "a text that is not empty and holds neither '/' nor ':'": r"^[^/:]+$",
    "'hub:owner/name'": r"^hub:[^/:\s]+/[^/:\s]+$",
    "'torchvision:NAME'": r"^torchvision:\w+$",
    "'package:name'": r"^[A-Za-z_]\w*:[\w.\-]+$",
}
"""What a name may look like: the words for it, and its regular expression."""

_FORM_OF_PATTERN = {pattern: form for form, pattern in FORMS.items()}
_LIMITS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
_LIMIT_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
_MUST_BE = {
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "dict_type": "a table",
    "model_type": "a table of keys",
    "tuple_type": "a list",
    "too_short": "a list that is not empty",
}


def describe(error: ValidationError, recipe: type[BaseModel]) -> str:
    """The first problem as a sentence, and the number of those that remain.

    Args:
        error: What validating ``recipe`` raised.
        recipe: The model whose fields are the sections.
    """
    groups: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors():
        groups.setdefault(_key(detail["loc"], recipe), []).append(detail)
    # A mistyped key comes first: it explains why another is missing.
    unknown_first = sorted(groups.values(), key=lambda details: details[0]["type"] != "extra_forbidden")
    sentence = _sentence(unknown_first[0], recipe)
    others = len(groups) - 1
    if not others:
        return sentence
    more = f"{others} more problem{'s' if others > 1 else ''}."
    return f"{sentence} {more}" if sentence.endswith("?") else f"{sentence[:-1]}; {more}"


def _sentence(details: Sequence[ErrorDetails], recipe: type[BaseModel]) -> str:
    """What is wrong with one key: the branches of a union each have their say."""
    detail, kind = details[0], details[0]["type"]
    path = [str(part) for part in detail["loc"]]
    if kind == "extra_forbidden":
        return f"Unknown recipe key '{'.'.join(path)}'.{_near_key(path, recipe)}"
    if kind == "missing":
        what = f"key '{'.'.join(path)}'" if len(path) > 1 else f"section [{path[0]}]"
        return f"A recipe must have the {what}, but this one has not."
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    said = _most_telling(details)
    key = _key(said[0]["loc"], recipe) + "".join(f"[{index}]" for index in _indices(said[0]["loc"]))
    choices = list(dict.fromkeys(choice for each in said for choice in _must_be(each, recipe)))
    value = said[0]["input"]
    near = suggestion(value, [choice.strip("'") for choice in choices]) if isinstance(value, str) else ""
    return f"{key} must be {_either(choices)}, but got {_shown(value)}.{near}"


def _most_telling(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Errors of those branches of a union that came furthest: to an item, to a value of the right type."""
    depth = max(len(_indices(detail["loc"])) for detail in details)
    deepest = [detail for detail in details if len(_indices(detail["loc"])) == depth]
    return [detail for detail in deepest if not detail["type"].endswith("_type")] or deepest


def _must_be(detail: ErrorDetails, recipe: type[BaseModel]) -> list[str]:
    """What the value may be instead, as one or several phrases."""
    kind = detail["type"]
    if kind == "literal_error":
        return re.findall(r"'[^']*'", detail["ctx"]["expected"])
    if kind == "string_pattern_mismatch":
        return [_FORM_OF_PATTERN[detail["ctx"]["pattern"]]]
    if kind in _LIMIT_ERRORS:
        limits = _limits(_field(detail["loc"], recipe))
        return [
            " and ".join(f"{words} {limits[name]:g}" for name, words in _LIMITS.items() if name in limits)
        ]
    return [_MUST_BE.get(kind, detail["msg"].removeprefix("Input should be "))]


def _key(location: Sequence[int | str], recipe: type[BaseModel]) -> str:
    """The key that an error is about, without pydantic's names for the branches of a union."""
    is_table = get_origin(getattr(_field(location, recipe), "annotation", None)) is dict
    return ".".join(str(part) for part in location[: 3 if is_table else 2]) or "A recipe"


def _indices(location: Sequence[int | str]) -> list[int]:
    """The place in a list that an error is about."""
    return [part for part in location if isinstance(part, int)]


def _field(location: Sequence[int | str], recipe: type[BaseModel]) -> Any:
    """The field that an error is about, or None for what is no field."""
    if len(location) < 2 or location[0] not in recipe.model_fields:
        return None
    return _keys_of(str(location[0]), recipe).get(str(location[1]))


def _keys_of(section: str, recipe: type[BaseModel]) -> dict[str, Any]:
    return getattr(recipe.model_fields[section].annotation, "model_fields", {})


def _near_key(path: Sequence[str], recipe: type[BaseModel]) -> str:
    """The known key that was meant: one so called in another section, or one called nearly so in this."""
    *section, key = path
    for other in recipe.model_fields:
        if key in _keys_of(other, recipe):
            return f" Did you mean '{other}.{key}'?"
    return suggestion(key, _keys_of(section[0], recipe) if section else recipe.model_fields)


def _limits(hint: Any) -> dict[str, float]:
    """The limits of a field's numbers, wherever in its type they stand: ``{"gt": 0, "le": 1}``."""
    parts = [*getattr(hint, "metadata", ()), *get_args(getattr(hint, "annotation", hint))]
    found: dict[str, float] = {}
    for part in parts:
        found |= {name: getattr(part, name) for name in _LIMITS if hasattr(part, name)}
        found |= _limits(part)
    return found


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else choices[0]


def _shown(value: Any) -> str:
    """A value much as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str | list | dict) else str(value)
