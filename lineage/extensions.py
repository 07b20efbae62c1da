"""Look-up of builders by name: built-in ones in a dict, those of installed packages through entry points.

A package registers a builder in one of the entry-point groups ``lineage.networks``, ``lineage.datasets``,
``lineage.objectives`` and ``lineage.schedules``; a recipe names it ``package:name``. A recipe never holds an
import path: reading a configuration file must not run code that is not installed for this purpose.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lineage.errors import RecipeError, suggestion

Builder = Callable[..., Any]


def resolve(kind: str, name: str, builtin: Mapping[str, Builder]) -> Builder:
    """Return the builder registered as ``name``.

    Args:
        kind: Product of the builder, ``network``, ``dataset``, ``objective`` or ``schedule``; its entry-point
            group is ``lineage.<kind>s``.
        name: Key of ``builtin``, or ``package:name`` for an entry point of an installed package.
        builtin: Builders that ``lineage`` ships.

    Raises:
        RecipeError: If no builder of that name is built in or installed, or its package cannot be imported.
    """
    if name in builtin:
        return builtin[name]
    installed = {f"{_package(point)}:{point.name}": point for point in entry_points(group=f"lineage.{kind}s")}
    if name in installed:
        return _load(kind, name, installed[name])
    known = [*builtin, *installed]
    raise RecipeError(f"Unknown {kind} '{name}'; known are {', '.join(known)}.{suggestion(name, known)}")


def named_settings(builder: Builder, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``settings`` that are parameters of ``builder``, so those that its product depends on."""
    return {name: settings[name] for name in inspect.signature(builder).parameters if name in settings}


def _load(kind: str, name: str, point: EntryPoint) -> Builder:
    try:
        builder: Builder = point.load()
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"The {kind} '{name}' must be importable from '{point.value}', but is not: {error};"
            " repair its package."
        ) from error
    return builder


def _package(point: EntryPoint) -> str:
    """Return the top-level package that contains an entry point's code."""
    return point.module.partition(".")[0]
