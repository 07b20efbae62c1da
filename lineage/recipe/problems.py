"""Describes pydantic's errors in a recipe, one sentence each."""

import re
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lineage.errors import RecipeError, suggestion
from lineage.formats import counted, printable
from lineage.recipe.limits import shortened
from lineage.recipe.renamed import renamed_to

FORMS = {
    "a text that is not empty and holds neither '/' nor ':'": r"^[^/:]+$",
    "'hub:owner/name'": r"^hub:[^/:\s]+/[^/:\s]+$",
    "'torchvision:NAME'": r"^torchvision:\w+$",
    "the name of a part of the data set": r"^\w[\w.\-]*$",
    "'package:name'": r"^[A-Za-z_]\w*:[\w.\-]+$",
}
"""Regular expressions of names, by their descriptions in an error."""

_MOST_DESCRIBED = 50
_FORM_OF_PATTERN = {pattern: form for form, pattern in FORMS.items()}
_LIMITS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
_LIMIT_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
_MUST_BE = {
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "string_unicode": "a text of valid Unicode characters",
    "dict_type": "a table",
    "model_type": "a table of keys",
    "tuple_type": "a list",
    "too_short": "a list that is not empty",
}


class ProblemsError(ValueError):
    """Several problems that one validator found.

    Args:
        sentences: One sentence for each.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__(*sentences)


def describe(error: ValidationError, recipe: type[BaseModel]) -> RecipeError:
    """Return an error whose message is the first problem, with the number of further ones.

    Args:
        error: Error of validating ``recipe``.
        recipe: Model whose fields are the sections.
    """
    groups: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        groups.setdefault(_key(detail["loc"], recipe), []).append(detail)
    # A mistyped key comes first: it explains why another is missing.
    unknown_first = sorted(groups.values(), key=lambda details: details[0]["type"] != "extra_forbidden")
    described, others = unknown_first[:_MOST_DESCRIBED], unknown_first[_MOST_DESCRIBED:]
    problems = [sentence for details in described for sentence in _sentences(details, recipe)]
    num_more = len(problems) - 1 + len(others)
    if others:
        problems.append(f"{counted(len(others), 'more problem')}.")
    first = problems[0]
    if not num_more:
        return RecipeError(first)
    more = f"{counted(num_more, 'more problem')}."
    return RecipeError(f"{first} {more}" if first.endswith("?") else f"{first[:-1]}; {more}", problems)


def _sentences(details: Sequence[ErrorDetails], recipe: type[BaseModel]) -> list[str]:
    """Return the problems of one key, or of a section that does not hold together."""
    if details[0]["type"] == "value_error":
        return [str(sentence) for sentence in details[0]["ctx"]["error"].args]
    return [_sentence(details, recipe)]


def _sentence(details: Sequence[ErrorDetails], recipe: type[BaseModel]) -> str:
    """Return the problem of one key; each branch of a union reports an error of its own."""
    detail, kind = details[0], details[0]["type"]
    path = detail["loc"]
    if kind == "extra_forbidden":
        names = [part for part in path if isinstance(part, str)]
        return f"Unknown recipe key '{_shown_key(path)}'.{_near_key(names, recipe)}"
    if kind == "missing":
        what = f"key '{_shown_key(path)}'" if len(path) > 1 else f"section [{path[0]}]"
        return f"A recipe must have the {what}, but this one has not."
    deepest = _deepest(details)
    location, value = deepest[0]["loc"], deepest[0]["input"]
    item = _indices(location[_depth(location, recipe) :])
    key = shortened(_key(location, recipe)) + "".join(f"[{index}]" for index in item)
    choices = list(dict.fromkeys(choice for each in deepest for choice in _must_be(each, recipe)))
    near = suggestion(value, [choice.strip("'") for choice in choices]) if isinstance(value, str) else ""
    return f"{key} must be {_either(choices)}, but got {_shown(value)}.{near}"


def _deepest(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Return the errors of a union's branches that got furthest: to an item, to a value of the right type."""
    depth = max(len(_indices(detail["loc"])) for detail in details)
    deepest = [detail for detail in details if len(_indices(detail["loc"])) == depth]
    return [detail for detail in deepest if not detail["type"].endswith("_type")] or deepest


def _must_be(detail: ErrorDetails, recipe: type[BaseModel]) -> list[str]:
    """Return what the value may be instead, as one or several phrases."""
    kind = detail["type"]
    if kind == "literal_error":
        return re.findall(r"'[^']*'", detail["ctx"]["expected"])
    if kind == "string_pattern_mismatch":
        return [_FORM_OF_PATTERN[detail["ctx"]["pattern"]]]
    if kind in _LIMIT_ERRORS:
        limits = _limits(_field(detail["loc"], recipe))
        return [
            " and ".join(
                f"{words} {_number(limits[name])}" for name, words in _LIMITS.items() if name in limits
            )
        ]
    return [_MUST_BE.get(kind, detail["msg"].removeprefix("Input should be "))]


def _key(location: Sequence[int | str], recipe: type[BaseModel]) -> str:
    """Return the key that an error is about, without pydantic's names for the branches of a union."""
    return _joined(location[: _depth(location, recipe)]) or "A recipe"


def _depth(location: Sequence[int | str], recipe: type[BaseModel]) -> int:
    """Return how many parts of a location name a key, which may lie in a table, or in a list of tables."""
    fields: dict[str, Any] = recipe.model_fields
    for depth, part in enumerate(location, start=1):
        if isinstance(part, int):  # place in a list of tables
            continue
        annotation = getattr(fields.get(part), "annotation", None)
        fields = _fields_in(annotation)
        if get_origin(annotation) is dict:
            return depth + 1
        if not fields:
            return depth
    return len(location)


def _joined(location: Sequence[int | str]) -> str:
    """Return a location as a key, such as ``student.terms[0].weight``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _indices(location: Sequence[int | str]) -> list[int]:
    """Return the indices of the list's item that an error is about."""
    return [part for part in location if isinstance(part, int)]


def _field(location: Sequence[int | str], recipe: type[BaseModel]) -> Any:
    """Return the innermost field that an error is about, or None if it is not about a field."""
    *outer, name = location or ("",)
    return _fields_at(outer, recipe).get(str(name)) or (_field(outer, recipe) if outer else None)


def _fields_at(path: Sequence[int | str], recipe: type[BaseModel]) -> dict[str, Any]:
    """Return the keys of the innermost table on a path: those of a section, or of a table in it."""
    fields: dict[str, Any] = recipe.model_fields
    for part in (part for part in path if isinstance(part, str)):
        fields = _fields_in(fields[part].annotation) if part in fields else {}
    return fields


def _fields_in(annotation: Any) -> dict[str, Any]:
    """Return the keys of the table that a key of this type is; none if it is no table of known keys."""
    models = [kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")]
    return models[0].model_fields if models else {}


def _near_key(path: Sequence[str], recipe: type[BaseModel]) -> str:
    """Suggest the key that was meant: a renamed one, one of another section, or a similar one of this."""
    *section, key = path
    renamed = renamed_to(".".join(path))
    if renamed is not None:
        return f" Did you mean '{renamed}'?"
    for other in recipe.model_fields:
        if key in _fields_at([other], recipe):
            return f" Did you mean '{other}.{key}'?"
    return suggestion(key, _fields_at(section, recipe))


def _limits(hint: Any) -> dict[str, float]:
    """Return the limits of a field's numbers, wherever in its type they stand: ``{"gt": 0, "le": 1}``."""
    parts = [*getattr(hint, "metadata", ()), *get_args(getattr(hint, "annotation", hint))]
    found: dict[str, float] = {}
    for part in parts:
        found |= {name: getattr(part, name) for name in _LIMITS if hasattr(part, name)}
        found |= _limits(part)
    return found


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else choices[0]


def _shown_key(path: Sequence[int | str]) -> str:
    """Return a key on one line: a file may hold any text between quotes."""
    return shortened(printable(_joined(path)))


def _shown(value: Any) -> str:
    """Return a value much as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return shortened(repr(value) if isinstance(value, str | list | dict) else str(value))
