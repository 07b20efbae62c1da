"""Recipe keys that were renamed: digests keep their first names; stored recipes and studies may have them."""

from collections.abc import Mapping
from typing import Any

_PRESENT_NAMES = {
    "student.signals": "student.soft_targets",
    "student.signal_classes": "student.soft_target_classes",
}
_FIRST_NAMES = {present: first for first, present in _PRESENT_NAMES.items()}


def present_name(key: str) -> str:
    """Return the present name of a recipe key, ``section.key``, given any name that it ever had."""
    return _PRESENT_NAMES.get(key, key)


def renamed_to(name: str) -> str | None:
    """Return the present name of the key that once was ``section.key`` or ``key``; None if none was."""
    found = (present for first, present in _PRESENT_NAMES.items() if name in (first, first.partition(".")[2]))
    return next(found, None)


def with_first_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's sections with each key under its first name, for digests."""
    return {section: _renamed(table, _FIRST_NAMES, section) for section, table in settings.items()}


def with_present_names(settings: Any) -> Any:
    """Return a stored recipe's sections with each key, in a study's space too, under its present name."""
    if not isinstance(settings, Mapping):
        return settings
    renamed = {section: _renamed(table, _PRESENT_NAMES, section) for section, table in settings.items()}
    study = renamed.get("study")
    if isinstance(study, Mapping) and isinstance(study.get("space"), Mapping):
        space = {present_name(key): axis for key, axis in study["space"].items()}
        renamed["study"] = {**study, "space": space}
    return renamed


def _renamed(table: Any, names: Mapping[str, str], section: str) -> Any:
    """Return a section's table with its keys renamed by ``names``, which are whole, ``section.key``."""
    if not isinstance(table, Mapping):
        return table
    prefix = f"{section}."
    return {names.get(prefix + key, key).removeprefix(prefix): value for key, value in table.items()}
