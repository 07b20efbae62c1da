"""Look-up of builders by name: built-in ones in a dict, those of installed packages through entry points.

A package registers a builder in one of the entry-point groups ``lineage.networks``, ``lineage.datasets``,
``lineage.objectives``, ``lineage.distillations``, ``lineage.augmentations``, ``lineage.optimizers``,
``lineage.schedules`` and ``lineage.handlers``; a recipe names it ``package:name``. A recipe never holds an
import path: reading a configuration file must not run code that is not installed for this purpose.

What a builder makes depends on its code, so keys of generations hold a digest of the source of its package.
"""

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from importlib.metadata import Distribution, EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, get_args
from weakref import WeakKeyDictionary

from lineage.errors import RecipeError, suggestion
from lineage.formats import file_digest, json_digest

Builder = Callable[..., Any]

REVISIONS: dict[tuple[str, str], int] = {
    ("term", "explanation"): 1,  # the class is that of the logits in the training precision
}
"""Revisions of our own builders by kind and name, such as ``("network", "resnet20")``; 0 where none is given.

Raise one when the same settings give other weights than before. It enters keys unless it is 0.
"""

_CODE_SUFFIXES = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES, ".pyx", ".c", ".cc", ".cpp", ".h", ".cu", ".cuh")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
_SETTINGS_SUFFIXES = (".json", ".toml", ".yaml", ".yml")

# By the module that was loaded: editing a file afterwards does not change the code that runs
_DIGESTS: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()


@dataclass(frozen=True)
class Source:
    """The code behind a builder of an installed package.

    Attributes:
        name: Name of the builder in a recipe.
        distribution: Distribution that offers it.
        version: Version of the distribution, for people; it enters no key.
        sha256: Digest of the distribution's source files.
    """

    name: str
    distribution: str
    version: str
    sha256: str

    def to_json(self) -> dict[str, str]:
        """Return plain values."""
        return asdict(self)


def resolve(kind: str, name: str, builtin: Mapping[str, Builder]) -> Builder:
    """Return the builder registered as ``name``.

    Args:
        kind: Product of the builder, ``network``, ``dataset``, ``objective``, ``distillation``,
            ``augmentation``, ``optimizer``, ``schedule`` or ``handler``; its entry-point group is
            ``lineage.<kind>s``.
        name: Key of ``builtin``, or ``package:name`` for an entry point of an installed package.
        builtin: Builders that ``lineage`` ships.

    Raises:
        RecipeError: If no builder of that name is built in or installed, or its package cannot be imported.
    """
    if name in builtin:
        return builtin[name]
    installed = _installed(kind)
    if name in installed:
        return _load(kind, name, installed[name])
    known = [*builtin, *installed]
    raise RecipeError(f"Unknown {kind} '{name}'; known are {', '.join(known)}.{suggestion(name, known)}")


def source_of(kind: str, name: str) -> Source | None:
    """Return the code behind a builder of an installed package; None for one of our own.

    Raises:
        RecipeError: If its package cannot be imported.
    """
    if ":" not in name:  # ours, which needs no look through all that is installed
        return None
    point = _installed(kind).get(name)
    if point is None:
        return None
    _load(kind, name, point)
    distribution = point.dist
    return Source(
        name,
        distribution.name if distribution else _package(point),
        distribution.version if distribution else "",
        _DIGESTS[sys.modules[point.module]],
    )


def named_settings(builder: Builder, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``settings`` that are parameters of ``builder``, so those that its product depends on."""
    return {name: settings[name] for name in inspect.signature(builder).parameters if name in settings}


def changed_options(builder: Builder, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``options`` that are not at the defaults of a signature, for keys older than they."""
    defaults = {name: parameter.default for name, parameter in _signature(builder).parameters.items()}
    return {name: value for name, value in options.items() if name not in defaults or defaults[name] != value}


def settings_and_options(
    subject: str, section: str, table: str, builder: Builder, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a builder gets of a recipe's section: settings that its signature names, and options.

    Args:
        subject: Noun phrase for the builder's product, for errors.
        section: Name of the section.
        table: Key of the section that holds the options; they may not have the name of a setting.
        builder: Callable that takes both by keyword.
        settings: Values of the section by name, with those of ``table``, if any, as a table.

    Raises:
        RecipeError: If an option is unknown or missing, or its value has another type.
    """
    plain = {name: value for name, value in settings.items() if name != table}
    options = typed_options(subject, f"{section}.{table}", builder, settings.get(table, {}), plain)
    return named_settings(builder, plain) | options


def typed_options(
    subject: str, table: str, builder: Builder, options: Mapping[str, Any], given: Collection[str] = ()
) -> dict[str, Any]:
    """Return a recipe's options of a builder, with the types and the defaults of its signature.

    An integer passes for a number; where the signature names no type, that of the default counts, if any.

    Args:
        subject: Noun phrase for the builder's product, for errors.
        table: Recipe table of the options, such as ``student.options``.
        builder: Callable that takes options by keyword.
        options: Values by name.
        given: Parameters of the builder that are no options.

    Raises:
        RecipeError: If an option is unknown or missing, or its value has another type.
    """
    parameters = _signature(builder).parameters.values()
    named = {p.name: p for p in parameters if p.kind not in _VARIADIC and p.name not in given}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for option in options:
        if option not in named and not takes_any:
            known = f"the options {', '.join(named)}" if named else "no options"
            raise RecipeError(
                f"{subject} takes {known}, but {table} has '{option}'.{suggestion(option, named)}"
            )
    values = {name: parameter.default for name, parameter in named.items()} | dict(options)
    missing = [name for name, value in values.items() if value is inspect.Parameter.empty]
    if missing:
        raise RecipeError(f"{subject} needs {' and '.join(missing)}; set {table}.{missing[0]}.")
    return {
        name: _typed(f"{table}.{name}", value, named[name]) if name in options and name in named else value
        for name, value in values.items()
    }


def _signature(builder: Builder) -> inspect.Signature:
    try:
        return inspect.signature(builder, eval_str=True)
    except NameError:  # an annotation names what is imported for type checkers alone
        return inspect.signature(builder)


def _typed(key: str, value: Any, parameter: inspect.Parameter) -> Any:
    """Return an option's value as its parameter's type."""
    annotation, default = parameter.annotation, parameter.default
    if annotation is inspect.Parameter.empty and type(default) in _WORDS:
        annotation = type(default)
    kinds = [kind for kind in (annotation, *get_args(annotation)) if kind in _WORDS]
    if not kinds or type(value) in kinds:
        return value
    if float in kinds and type(value) is int:
        return float(value)
    raise RecipeError(f"{key} must be {' or '.join(_WORDS[kind] for kind in kinds)}, but got {value!r}.")


def _load(kind: str, name: str, point: EntryPoint) -> Builder:
    try:
        builder: Builder = point.load()
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"The {kind} '{name}' must be importable from '{point.value}', but is not: {error};"
            " repair its package."
        ) from error
    module = sys.modules[point.module]
    if module not in _DIGESTS:
        _DIGESTS[module] = _source_digest(point)
    return builder


def _installed(kind: str) -> dict[str, EntryPoint]:
    return {f"{_package(point)}:{point.name}": point for point in entry_points(group=f"lineage.{kind}s")}


def _source_digest(point: EntryPoint) -> str:
    """Return the digest of all source files of the packages in an entry point's distribution.

    The files of the packages are read where Python finds them: an editable install has the same digest as a
    wheel of the same source.
    """
    names = {_package(point)} | (set() if point.dist is None else set(_packages(point.dist)))
    return json_digest({name: _digests(name) for name in sorted(names)})


def _packages(distribution: Distribution) -> Iterator[str]:
    """Yield the top-level packages and modules that a distribution declares or installs."""
    yield from (distribution.read_text("top_level.txt") or "").split()
    for file in distribution.files or ():
        top = file.parts[0].partition(".")[0]
        if file.suffix == ".py" and top.isidentifier() and not top.startswith("__editable__"):
            yield top


def _digests(name: str) -> dict[str, str]:
    """Return digests of the source files of a top-level package or module, by their path within it."""
    spec = find_spec(name)
    if spec is None:
        return {}
    if spec.submodule_search_locations is None:
        return {} if spec.origin is None else {"": file_digest(Path(spec.origin))}
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for folder in spec.submodule_search_locations
        for path in Path(folder).rglob("*")
        if path.name.endswith((*_CODE_SUFFIXES, *_SETTINGS_SUFFIXES)) and path.is_file()
    }


def _package(point: EntryPoint) -> str:
    """Return the top-level package that contains an entry point's code."""
    return point.module.partition(".")[0]
