"""Formats of numbers, names, digests and errors, shared by all of ``lineage``."""

import errno
import hashlib
import json
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MISSING = "–"

_DISK_FULL = (
    "No space left on device",
    "database or disk is full",  # sqlite
    "PytorchStreamWriter failed writing",  # torch, which does not say why a write took no bytes
    "iostream error",
    "unexpected pos",
)


@dataclass(frozen=True)
class Unit:
    """Unit of a metric: a value is multiplied by ``scale`` and written with ``digits`` before ``sign``.

    Attributes:
        scale: Factor of a value.
        digits: Format specification, such as ``.2f``.
        sign: Text behind the number.
        of_changes: Unit of a difference; empty if unknown.
        better: 1 if more is better, -1 if less is, 0 if neither.
    """

    scale: float
    digits: str
    sign: str = ""
    of_changes: str = ""
    better: int = 0


_PERCENT = Unit(100, ".2f", " %", "percentage points")
_PLAIN = Unit(1, ".4g")
_NATS = Unit(1, ".4f", of_changes="nats")
_UNITS = {
    "accuracy": replace(_PERCENT, better=1),
    "agreement": _PERCENT,
    "auc": replace(_PERCENT, better=-1),  # of attacks
    "tpr_at_fpr_0.01": replace(_PERCENT, better=-1),
    "tpr_at_fpr_0.001": replace(_PERCENT, better=-1),
    "calibration_error": replace(_PERCENT, better=-1),
    "secondary_mass": _PERCENT,
    "superclass_share": _PERCENT,
    "top_probability": _PERCENT,
    "top_score_difference": _PERCENT,
    "cross_entropy": replace(_NATS, better=-1),
    "entropy": _NATS,
    "seconds": Unit(1, ".1f", " s", "seconds"),
    "images_per_second": Unit(1, ".0f", " images/s", "images/s"),
}
"""By the end of a metric's name: ``test_accuracy`` is an accuracy; the first that fits counts."""


def unit_of(metric: str) -> Unit:
    """Return the unit of ``metric``."""
    return next((unit for name, unit in _UNITS.items() if metric.endswith(name)), _PLAIN)


def quantity(metric: str, value: float | None) -> str:
    """A value of ``metric`` in its unit: shares in percent, ``97.50 %``; entropies in nats, unmarked."""
    if value is None:
        return MISSING
    unit = unit_of(metric)
    return f"{unit.scale * value:{unit.digits}}{unit.sign}"


def change(metric: str, difference: float | None) -> str:
    """A difference of two values of ``metric`` with its sign, ``+0.28``: of shares, in percentage points."""
    if difference is None:
        return MISSING
    unit = unit_of(metric)
    return f"{unit.scale * difference:+z{unit.digits}}"


def spread(metric: str, mean: float, deviation: float | None) -> str:
    """A mean of ``metric`` with its standard deviation where there is one, ``97.50 ± 0.21 %``."""
    if deviation is None:
        return quantity(metric, mean)
    unit = unit_of(metric)
    return f"{unit.scale * mean:{unit.digits}} ± {unit.scale * deviation:{unit.digits}}{unit.sign}"


def unit_of_changes(metric: str) -> str:
    """Return the unit of ``change``, such as ``percentage points``; empty if unknown."""
    return unit_of(metric).of_changes


def counted(count: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: str, keep: str = "") -> str:
    """Return ``text`` without control characters, escape sequences and direction marks.

    Names, tags and messages in a registry are written by anybody, and terminals obey what they hold.

    Args:
        text: Text to print.
        keep: Characters that stay although they are not printable, such as a line break.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep or _joins_symbols(text, index)
        else "\N{REPLACEMENT CHARACTER}"
        for index, character in enumerate(text)
    )


def _joins_symbols(text: str, index: int) -> bool:
    """Tell whether the character at ``index`` joins emoji into one, as in a family or a profession."""
    if text[index] != "\N{ZERO WIDTH JOINER}" or index == 0:
        return False
    before = text[index - 1]
    return before == "\N{VARIATION SELECTOR-16}" or unicodedata.category(before) in {"So", "Sk"}


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error, or one that it came from, says that a disk is full."""
    found: BaseException | None = error
    while found is not None:
        if getattr(found, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(found) for text in _DISK_FULL):
            return True
        found = found.__cause__ or found.__context__
    return False


def first_line(error: BaseException | str) -> str:
    """First line of an error's message without its full stop, to be quoted in a sentence of ours."""
    return str(error).strip().partition("\n")[0].rstrip(".")


def read_problem(error: Exception) -> str:
    """Return in one line why stored text could not be read, with the field if pydantic names one."""
    from pydantic import ValidationError  # not at the top: most of what this module serves needs no pydantic

    if not isinstance(error, ValidationError):
        return first_line(error)
    first = error.errors()[0]
    return f"'{'.'.join(map(str, first['loc']))}': {first['msg']}" if first["loc"] else first["msg"]


def text_digest(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of a plain value as JSON with sorted keys."""
    return text_digest(json.dumps(value, sort_keys=True))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
