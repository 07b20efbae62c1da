"""Limits of what is read as a recipe: reading larger ones would take time or memory, and nobody writes them.

They hold before anything else is done with the values, since a recipe may come from anybody.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lineage.errors import NotFoundError, RecipeError
from lineage.formats import printable

MOST_BYTES = 65_536
MOST_VALUES = 5_000
MOST_DEPTH = 8
MOST_CHARACTERS = 1_000
_MOST_DOTS = (
    1_000  # in a line: the time that tomllib takes for a dotted key grows with the square of its parts
)
_MOST_SHOWN = 200
_INTEGERS = range(-(2**63), 2**63)  # those of TOML


def read_text(path: Path) -> str:
    """Return the text of a recipe's file.

    Raises:
        NotFoundError: If the file cannot be read.
        RecipeError: If it is not UTF-8 text, or too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        require_size(content, f"'{path}'")
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"A recipe must be UTF-8 text, but '{path}' is not: {error.reason}.") from None
    except OSError as error:
        raise NotFoundError(f"A recipe must be readable, but '{path}' is not: {error.strerror}.") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables in a TOML text.

    Raises:
        TOMLDecodeError: If ``text`` is not TOML, or has more levels or larger numbers than can be read.
    """
    if any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
        raise tomllib.TOMLDecodeError(f"A line holds more than {_MOST_DOTS} dots")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise tomllib.TOMLDecodeError("Tables or lists are nested too deeply") from None
    except ValueError:  # int() refuses numbers of thousands of digits
        raise tomllib.TOMLDecodeError("A number has too many digits") from None


def require_size(content: bytes | str, subject: str) -> None:
    """Refuse a recipe's text that is too large to be one.

    Raises:
        RecipeError: If it has more than ``MOST_BYTES`` bytes or characters.
    """
    if len(content) > MOST_BYTES:
        raise RecipeError(f"A recipe must have at most {MOST_BYTES:,} bytes, but {subject} has more.")


def check_limits(settings: Mapping[str, Any]) -> None:
    """Refuse settings with too many values, too deep tables, too long texts or too large integers.

    Raises:
        RecipeError: If they pass one of the limits.
    """
    unread: list[tuple[str, Any, int]] = [("", settings, 0)]
    num_values = 0
    while unread:
        key, value, depth = unread.pop()
        num_values += 1
        if num_values > MOST_VALUES:
            raise RecipeError(f"A recipe must have at most {MOST_VALUES:,} values, but this one has more.")
        if depth > MOST_DEPTH:
            raise RecipeError(
                f"A recipe's tables and lists must be at most {MOST_DEPTH} deep, but '{shortened(key)}' is"
                " deeper."
            )
        if isinstance(value, Mapping):
            for name, item in value.items():
                _check_text("A key", str(name))
                unread.append((f"{key}.{name}" if key else str(name), item, depth + 1))
        elif isinstance(value, list | tuple):
            unread += [(f"{key}[{index}]", item, depth + 1) for index, item in enumerate(value)]
        elif isinstance(value, str):
            _check_text(key, value)
        elif isinstance(value, int) and value not in _INTEGERS:
            raise RecipeError(
                f"{shortened(key)} must be an integer from -2⁶³ to 2⁶³ - 1, but got one of"
                f" {value.bit_length():,} bits."
            )


def shortened(text: str) -> str:
    """Return ``text`` for a message: printable, and with its middle left out if it is too long."""
    text = printable(text, keep="\n")
    half = _MOST_SHOWN // 2
    return text if len(text) <= _MOST_SHOWN else f"{text[:half]}…{text[-half:]}"


def _check_text(subject: str, text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise RecipeError(
            f"{shortened(subject)} must have at most {MOST_CHARACTERS:,} characters, but got {len(text):,}:"
            f" {shortened(repr(text))}."
        )
