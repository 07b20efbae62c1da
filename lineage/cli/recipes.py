"""``lineage recipes``: list, show, copy and check recipes."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.output import AsJson, Overrides, print_json, print_text
from lineage.errors import IntegrityError, NotFoundError, RecipeError, UsageError

_MOST_CHARACTERS = 1_900

app = typer.Typer(help="List, show, copy and check recipes.", no_args_is_help=True)

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a TOML file.")]


@app.command("ls")
def list_recipes(as_json: AsJson = False) -> None:
    """List the shipped recipes."""
    from lineage.recipe import recipe_names, recipe_path

    rows = [{"name": name, "summary": _summary(recipe_path(name))} for name in recipe_names()]
    if as_json:
        print_json(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print_text(f"{row['name']:{width}}  {row['summary']}")


@app.command()
def show(recipe: Recipe, as_json: AsJson = False) -> None:
    """Print a recipe as it is written; with --json, all its settings with their defaults."""
    from lineage.recipe import find_recipe, load_recipe

    if as_json:
        print_json(json.loads(load_recipe(recipe).to_json()))
    else:
        print_text(_text(find_recipe(recipe)).rstrip("\n"))


@app.command()
def cp(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a shipped recipe.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File or folder to copy to.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a shipped recipe, to change it."""
    from lineage.recipe import recipe_path

    source = recipe_path(name)
    target = file / source.name if file.is_dir() else file
    _write(target, _text(source), force)
    if as_json:
        print_json({"name": name, "path": str(target)})
    else:
        print_text(f"Copied {name} to {target}.")


@app.command()
def validate(recipe: Recipe, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check every key and value of a recipe, and print its digest, or all its problems."""
    from lineage.recipe import load_recipe

    try:
        resolved = load_recipe(recipe, overrides or ())
    except RecipeError as error:
        if as_json:
            print_json({"recipe": recipe, "problems": error.problems})
        raise _with_all_problems(error, recipe) from None
    if as_json:
        print_json({"recipe": recipe, "digest": resolved.digest, "settings": json.loads(resolved.to_json())})
    else:
        print_text(f"{recipe} is valid: digest {resolved.digest}.")


@app.command()
def schema(
    as_json: Annotated[
        bool, typer.Option("--json", help="Accepted for consistency; the output is always JSON.")
    ] = False,
) -> None:
    """Print the JSON Schema of recipes, for completion and checks in an editor.

    Save it as recipe.schema.json beside a recipe whose first line is '#:schema ./recipe.schema.json'.
    """
    from lineage.recipe import recipe_schema

    print_json(recipe_schema())


def _with_all_problems(error: RecipeError, recipe: str) -> RecipeError:
    """Return an error whose message has a line for each problem, as far as a screen holds them."""
    if len(error.problems) == 1:
        return error
    text = f"{recipe} must be a valid recipe, but is not:"
    for index, problem in enumerate(error.problems):
        if len(text) + len(problem) > _MOST_CHARACTERS:
            rest = len(error.problems) - index
            return RecipeError(f"{text}\n  and {rest} more; --json prints them.", error.problems)
        text += f"\n  {problem}"
    return RecipeError(text, error.problems)


def _summary(path: Path) -> str:
    """Return the first line of a recipe, a comment that describes it."""
    return _text(path).partition("\n")[0].removeprefix("#").strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(f"A recipe must be readable text, but '{path}' is not: {error}.") from None


def _write(path: Path, text: str, force: bool) -> None:
    """Write a file; overwrite an existing one only with ``force``."""
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise IntegrityError(
            f"'{path}' must not exist, but does; give another name, or --force to overwrite it."
        ) from None
    except FileNotFoundError:
        raise NotFoundError(
            f"The folder '{path.parent}' must exist, but does not; create it first."
        ) from None
    except OSError as error:
        raise UsageError(
            f"'{path}' must be writable, but is not: {error.strerror}; give another name."
        ) from None
