"""Overrides of a recipe's settings: texts ``section.key=value`` with TOML values, or plain values."""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from lineage.errors import RecipeError, UsageError
from lineage.recipe.limits import parse_toml, shortened

Overrides = Sequence[str] | Mapping[str, Any]
"""Settings that change a recipe: texts ``section.key=value``, or values by key or by section and key."""


def override(key: str, value: Any) -> str:
    """Return the text ``section.key=value``, as after ``--set``, that gives ``key`` exactly ``value``.

    Raises:
        RecipeError: If TOML has no such value.
    """
    return f"{key}={_written(key, value)}"


def override_texts(overrides: Overrides) -> list[str]:
    """Return overrides as texts ``section.key=value``.

    Args:
        overrides: Such texts; or values by whole key, ``section.key``, or in a table for each section.

    Raises:
        RecipeError: If a value is one that TOML does not have.
        UsageError: If they are neither.
    """
    if isinstance(overrides, str):
        raise UsageError(
            "Overrides must be a list of texts or a dict of values, but got the text"
            f" '{shortened(overrides)}'; put it into a list."
        )
    if not isinstance(overrides, Mapping):
        return list(overrides)
    texts = []
    for key, value in overrides.items():
        if isinstance(value, Mapping) and "." not in key:
            texts += [override(f"{key}.{name}", own) for name, own in value.items()]
        else:
            texts.append(override(key, value))
    return texts


def _written(key: str, value: Any) -> str:
    """Return ``value`` as TOML on one line."""
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(str(name))} = {_written(key, own)}" for name, own in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_written(key, own) for own in value)}]"
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str | int | os.PathLike):  # also True and False
        plain = os.fspath(value) if isinstance(value, os.PathLike) else value
        # JSON's strings are TOML's but for surrogate pairs, which TOML has not, and DEL, which it escapes
        return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
    raise RecipeError(
        f"The value of '{shortened(key)}' must be a text, number, truth value, list or dict, but got"
        f" {type(value).__name__}; leave the key out for its default."
    )


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return overrides, texts ``section.key=value``, as tables of keys by section.

    Raises:
        RecipeError: If an override cannot be parsed.
    """
    settings: dict[str, Any] = {}
    for text in overrides:
        apply_override(text, settings)
    return settings


def apply_override(override: str, settings: dict[str, Any]) -> None:
    """Apply one override to ``settings``, in place.

    Raises:
        RecipeError: If it cannot be parsed.
    """
    dotted, equals, text = override.partition("=")
    shown = shortened(override)
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise RecipeError(f"--set must be given section.key=value, but got '{shown}'.")
    table = settings
    for depth, key in enumerate(keys[:-1], start=1):
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            name = shortened(".".join(keys[:depth]))
            raise RecipeError(f"--set {shortened(dotted)} needs a table '{name}', but it is a value.")
    table[keys[-1]] = _value(text.strip(), shown)


def _value(text: str, shown: str) -> Any:
    """Parse ``text`` as a TOML value; a bare word is returned as it is.

    Raises:
        RecipeError: If it is neither, or several values.
    """
    try:
        (value,) = parse_toml(f"value = {text}").values()
    except tomllib.TOMLDecodeError as error:
        if not text or text[0] in "'\"[{" or "too many digits" in str(error):
            reason = shortened(str(error).partition(" (at ")[0])  # which counts from our own "value = "
            raise RecipeError(f"--set must be given TOML, but '{shown}' is not: {reason}.") from None
        return text
    except ValueError:
        raise RecipeError(f"--set must give one value, but got several in '{shown}'.") from None
    return value
