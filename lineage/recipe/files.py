"""Recipe files: finding them by name or path, reading them, and changing what they say."""

import copy
import os
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from lineage.errors import NotFoundError, RecipeError, UsageError, suggestion
from lineage.recipe.limits import MOST_CHARACTERS, check_limits, parse_toml, read_text, shortened
from lineage.recipe.overrides import apply_override
from lineage.recipe.recipe import Recipe
from lineage.recipe.sections import Sections

S = TypeVar("S", bound=Sections)

_PACKAGE = Path(__file__).parents[1]
# A wheel carries the recipes inside the package; an editable install has them beside it.
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")


def recipe_names() -> list[str]:
    """Return the sorted names of the shipped recipes."""
    return sorted(_shipped())


def recipe_path(name: str) -> Path:
    """Return the file of a shipped recipe.

    Raises:
        NotFoundError: If no shipped recipe has that name.
    """
    shipped = _shipped()
    if name not in shipped:
        raise NotFoundError(
            f"There is no recipe '{shortened(name)}'.{suggestion(name, sorted(shipped))} 'lineage recipes ls'"
            " lists them."
        )
    return shipped[name]


def find_recipe(name_or_path: str) -> Path:
    """Return the file of a recipe, given its path or the name of a shipped one, which takes precedence.

    Raises:
        NotFoundError: If there is neither a shipped recipe nor a file.
    """
    shipped = _shipped()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if is_file(name_or_path):
        return path
    separators = [os.sep, *filter(None, [os.altsep])]
    if path.suffix == ".toml" or any(separator in name_or_path for separator in separators):
        found = "a folder" if len(name_or_path) < MOST_CHARACTERS and path.is_dir() else "nothing"
        raise NotFoundError(f"A recipe must be a file, but there is {found} at '{shortened(name_or_path)}'.")
    return recipe_path(name_or_path)


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe, apply overrides and validate it.

    Args:
        name_or_path: Name of a shipped recipe, or path of a TOML file.
        overrides: Texts ``section.key=value``, applied in turn. Values are TOML; a bare word that is not TOML
            is a text.

    Raises:
        NotFoundError: If there is no such recipe.
        RecipeError: If the file is not TOML, an override cannot be parsed, or a setting is invalid.
    """
    return parse_settings(Recipe, read_toml(find_recipe(name_or_path)), overrides)


def change_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return ``recipe`` with overrides applied, validated again.

    Args:
        recipe: Recipe to change.
        overrides: Texts ``section.key=value``, applied in turn.

    Raises:
        RecipeError: If an override cannot be parsed, or a setting is invalid.
    """
    return parse_settings(Recipe, recipe.model_dump(exclude_none=True), overrides)


def parse_settings(sections: type[S], defaults: Mapping[str, Any], overrides: Sequence[str] = ()) -> S:
    """Return ``defaults`` with ``overrides`` applied, every value checked as in a recipe.

    Args:
        sections: Form of the result: the whole recipe, or the sections that a command reads.
        defaults: Values by section and key.
        overrides: Texts ``section.key=value``, as for ``load_recipe``.

    Raises:
        RecipeError: If an override cannot be parsed, or a setting is invalid.
    """
    check_limits(defaults)
    settings: dict[str, Any] = copy.deepcopy(dict(defaults))
    for override in overrides:
        apply_override(override, settings)
    return sections.from_dict(settings)


def require_effect(
    overrides: Sequence[str],
    used: Collection[str],
    purpose: str,
    remedies: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse overrides that would be read and then ignored.

    Unknown keys of a section that is used pass: ``parse_settings`` refuses them and names the nearest.

    Args:
        overrides: Texts ``section.key=value``.
        used: Keys, ``section.key``, that have an effect.
        purpose: Noun phrase for what uses them, for the error.
        remedies: Advice in place of an override, by its key or section; "leave it out" by default.

    Raises:
        UsageError: If an override's key is not in ``used``.
    """
    sections = {key.partition(".")[0] for key in used}
    known = {
        name: getattr(field.annotation, "model_fields", {}) for name, field in Recipe.model_fields.items()
    }
    for override in overrides:
        section, *keys = (part.strip() for part in override.partition("=")[0].split("."))
        key = ".".join([section, *keys[:1]])
        is_unknown = bool(keys) and keys[0] not in known.get(section, {})
        if key in used or (section in sections and is_unknown):
            continue
        same_section = [name for name in used if name.partition(".")[0] == section]
        choices = same_section or [f"{name}.KEY" for name in sorted(sections)]
        remedy = next((remedies[name] for name in (key, section) if name in remedies), "leave it out")
        raise UsageError(
            f"--set must give a setting that {purpose} uses ({', '.join(choices)}), but got"
            f" '{shortened(override)}'; {remedy}."
        )


def set_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return ``recipe`` with the values of some keys replaced, validated again.

    Args:
        recipe: Recipe to change.
        values: New values by whole key, ``section.key``.

    Raises:
        RecipeError: If a setting is invalid.
    """
    settings = recipe.model_dump(exclude_none=True)
    for dotted, value in values.items():
        *sections, key = dotted.split(".")
        table = settings
        for section in sections:
            table = table.setdefault(section, {})
        table[key] = value
    return Recipe.from_dict(settings)


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Return all settings but those of ``[study]`` by whole key, ``section.key``, as ``--set`` takes it."""
    return dict(_leaves(recipe.model_dump(mode="json", exclude={"study"}), ""))


def default_settings() -> dict[str, Any]:
    """Return the defaults of all keys that have one other than "absent", as ``flatten`` gives them."""
    sections = {name: field.annotation for name, field in Recipe.model_fields.items() if name != "study"}
    found: dict[str, Any] = {}
    for name, section in sections.items():
        fields = getattr(section, "model_fields", {})
        for key, field in fields.items():
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            if default is not None and not isinstance(default, dict):
                found[f"{name}.{key}"] = list(default) if isinstance(default, tuple) else default
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        NotFoundError: If the file cannot be read.
        RecipeError: If it is not TOML.
    """
    text = read_text(path)
    try:
        # Without a last line break tomllib places an error there "at end of document", not at its line.
        return parse_toml(text + "\n")
    except tomllib.TOMLDecodeError as error:
        twice = "; a key or section may stand only once" if "Cannot" in str(error) else ""
        reason = shortened(str(error))
        raise RecipeError(
            f"A recipe must be TOML, but in '{path}' reading failed: {reason}{twice}."
        ) from None


def is_file(text: str) -> bool:
    """Return whether ``text`` is the path of a file; a text that is too long to be one is none."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, _without_absent(value)


def _without_absent(value: Any) -> Any:
    """Return a value whose tables, if it is a list of them, leave out absent keys, as TOML does."""
    if isinstance(value, list):
        return [_without_absent(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_absent(item) for name, item in value.items() if item is not None}
    return value


def _shipped() -> dict[str, Path]:
    """Return the files of the shipped recipes, which may lie in subfolders, by name."""
    return {path.stem: path for path in _folder().rglob("*.toml")}


def _folder() -> Path:
    for folder in _FOLDERS:
        if folder.is_dir():
            return folder
    raise NotFoundError(f"The recipes of lineage must lie in '{_FOLDERS[0]}', but do not; reinstall it.")
