"""Finds recipes by name or path, reads them and applies overrides."""

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lineage.errors import NotFoundError, RecipeError, suggestion
from lineage.recipe.recipe import Recipe

_PACKAGE = Path(__file__).parents[1]
# A wheel carries the recipes inside the package; an editable install has them beside it.
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")


def recipe_names() -> list[str]:
    """Names of the recipes that come with ``lineage``, sorted."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def recipe_path(name: str) -> Path:
    """File of the recipe that comes with ``lineage`` under ``name``.

    Raises:
        NotFoundError: If none is so called.
    """
    names = recipe_names()
    if name not in names:
        raise NotFoundError(
            f"There is no recipe '{name}'.{suggestion(name, names)} 'lineage recipes ls' lists them."
        )
    return _folder() / f"{name}.toml"


def find_recipe(name_or_path: str) -> Path:
    """File of a recipe that is given by name or path; a name that comes with ``lineage`` wins.

    Raises:
        NotFoundError: If there is neither.
    """
    if name_or_path in recipe_names():
        return recipe_path(name_or_path)
    path = Path(name_or_path)
    if path.is_file():
        return path
    separators = [os.sep, *filter(None, [os.altsep])]
    if path.suffix == ".toml" or any(separator in name_or_path for separator in separators):
        found = "a folder" if path.is_dir() else "nothing"
        raise NotFoundError(f"A recipe must be a file, but there is {found} at '{name_or_path}'.")
    return recipe_path(name_or_path)


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or path, with ``overrides`` applied and every value checked.

    Args:
        name_or_path: A name of ``recipe_names()`` or the path of a TOML file.
        overrides: Texts ``section.key=value``, applied in turn. Values are TOML; a bare word that is no TOML
            value is a text.

    Raises:
        NotFoundError: If there is no such recipe.
        RecipeError: If the file is no TOML, an override cannot be read, or a setting cannot hold.
    """
    settings = read_toml(find_recipe(name_or_path))
    for override in overrides:
        _apply(override, settings)
    return Recipe.from_dict(settings)


def change_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """``recipe`` with ``overrides`` applied, every value checked again.

    Raises:
        RecipeError: If an override cannot be read, or a setting cannot hold.
    """
    settings = recipe.model_dump(exclude_none=True)
    for override in overrides:
        _apply(override, settings)
    return Recipe.from_dict(settings)


def set_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """``recipe`` with the ``values`` of some keys, by dotted name, every value checked again.

    Raises:
        RecipeError: If a setting cannot hold.
    """
    settings = recipe.model_dump(exclude_none=True)
    for dotted, value in values.items():
        *sections, key = dotted.split(".")
        table = settings
        for section in sections:
            table = table[section]
        table[key] = value
    return Recipe.from_dict(settings)


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Every setting that something is grown from, under its dotted name, as ``--set`` takes it."""
    return dict(_leaves(recipe.model_dump(mode="json", exclude={"study"}), ""))


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        NotFoundError: If it cannot be read.
        RecipeError: If it is no TOML.
    """
    try:
        # Without a last line break tomllib places an error there "at end of document", not at its line.
        return tomllib.loads(path.read_text(encoding="utf-8") + "\n")
    except tomllib.TOMLDecodeError as error:
        twice = "; a key or section may stand only once" if "Cannot" in str(error) else ""
        raise RecipeError(f"A recipe must be TOML, but in '{path}' reading failed: {error}{twice}.") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"A recipe must be UTF-8 text, but '{path}' is not: {error.reason}.") from None
    except OSError as error:
        raise NotFoundError(f"A recipe must be readable, but '{path}' is not: {error.strerror}.") from None


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _folder() -> Path:
    for folder in _FOLDERS:
        if folder.is_dir():
            return folder
    raise NotFoundError(f"The recipes of lineage must lie in '{_FOLDERS[0]}', but do not; reinstall it.")


def _apply(override: str, settings: dict[str, Any]) -> None:
    """Set one key of ``settings``, in place."""
    dotted, equals, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise RecipeError(f"--set must be given section.key=value, but got '{override}'.")
    table = settings
    for depth, key in enumerate(keys[:-1], start=1):
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {dotted} needs a table '{'.'.join(keys[:depth])}', but it is a value.")
    table[keys[-1]] = _value(text.strip(), override)


def _value(text: str, override: str) -> Any:
    """What ``text`` stands for as a TOML value, or ``text`` itself where it is a bare word."""
    try:
        (value,) = tomllib.loads(f"value = {text}").values()
    except tomllib.TOMLDecodeError as error:
        if not text or text[0] in "'\"[{":
            reason = str(error).partition(" (at ")[0]  # which counts from our own "value = "
            raise RecipeError(f"--set must be given TOML, but '{override}' is not: {reason}.") from None
        return text
    except ValueError:
        raise RecipeError(f"--set must give one value, but got several in '{override}'.") from None
    return value
