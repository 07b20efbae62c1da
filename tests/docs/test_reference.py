"""The reference is complete: keys, recipes, commands, options, exit codes, tags, metrics and variables."""

import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from mlflow import MlflowClient
from pages import DOCS, PAGES, ROOT, Command, blocks
from reference_pages import (
    api_page,
    commands_page,
    public_names,
    recipe_header,
    recipe_keys_page,
    recipes_page,
    visible_commands,
)

import lineage
from lineage import errors
from lineage.cli import app
from lineage.recipe import Recipe, load_recipe, recipe_names, recipe_path, with_space

REFERENCE = DOCS / "reference"
_ALL_COMMANDS = [(page, command) for page in PAGES for block in blocks(page) for command in block.commands]
_OF_LINEAGE = [(page, command) for page, command in _ALL_COMMANDS if "lineage" in command.text]


def test_every_recipe_key_is_described() -> None:
    page = recipe_keys_page()
    for section, field in Recipe.model_fields.items():
        for key in field.annotation.model_fields:  # type: ignore[union-attr]
            (row,) = (line for line in page.splitlines() if line.startswith(f"| `{section}.{key}` "))
            *_, kind, default, meaning, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", row))
            assert all((kind, default, meaning)), row


def test_every_recipe_is_listed_and_says_whether_it_was_measured() -> None:
    page = recipes_page()
    for name in recipe_names():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| [`{name}`]"))
        measured = re.search(r"^# measured: (.*)$", recipe_path(name).read_text(), re.M)
        assert measured is not None
        assert row.endswith("| not run |") == (measured[1] == "not run"), name
        assert {"source", "data", "hardware", "measured", "summary"} == set(recipe_header(name)) - {"epochs"}


def test_every_command_and_option_is_listed() -> None:
    page = commands_page()
    names = [name for name, _ in visible_commands()]
    assert {"lineage grow", "lineage recipes ls", "lineage study-report"} <= set(names)
    for name, command in visible_commands():
        part = page.partition(f"\n## `{name}`\n")[2].partition("\n## ")[0]
        assert command.help.strip() in part
        for parameter in command.params:
            assert parameter.help, f"{name}: {parameter.name}"
            labels = parameter.opts if parameter.param_type_name == "option" else []
            assert all(f"`{option}" in part for option in labels), name


def test_every_public_name_is_documented() -> None:
    assert set(public_names()) == set(lineage.__all__)
    page = api_page()
    for name, path in public_names().items():
        module, _, attribute = path.rpartition(".")
        assert getattr(importlib.import_module(module), attribute) is getattr(lineage, name)
        assert f"::: {path}\n" in page
    for function in filter(str.islower, public_names()):
        assert f"**Example of `{function}`**" in page, function


@pytest.mark.parametrize(("page", "command"), _OF_LINEAGE, ids=lambda part: getattr(part, "stem", ""))
def test_documented_command_has_options_and_settings_that_exist(page: Path, command: Command) -> None:
    for arguments in _calls(command.text):
        _parse(arguments)
        settings = [value for option, value in pairwise(arguments) if option == "--set"]
        recipe = load_recipe("digits", settings)
        space = [word for word in arguments if arguments[0] == "study" and re.match(r"\w+=.*[:.,]", word)]
        if space:
            assert with_space(recipe, space).study.space, page


def test_documented_toml_is_part_of_a_recipe() -> None:
    found = [block.text for page in PAGES for block in blocks(page) if block.language == "toml"]
    assert found
    for text in found:
        file = (ROOT / "recipes" / "digits.toml").read_text() + text
        recipe = Recipe.from_dict(tomllib.loads(file))
        assert recipe != load_recipe("digits")


def test_exit_codes_are_those_of_the_exceptions() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", (REFERENCE / "exit-codes.md").read_text(), re.MULTILINE)
    documented = {name: int(code) for code, names in rows for name in re.findall(r"`(\w+)`", names)}
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and errors.LineageError in kind.__mro__[1:]
    }
    assert documented.keys() == classes.keys()
    for name, kind in classes.items():
        assert documented[name] == vars(kind).get("untold_exit_code", kind.exit_code), name


def test_environment_variables_of_lineage_are_described() -> None:
    sources = "".join(file.read_text() for file in (ROOT / "lineage").rglob("*.py"))
    used = set(re.findall(r'"(LINEAGE_(?:HOME|STUDIES|[A-Z]+))"', sources)) - {"LINEAGE_LAUNCHED"}
    page = (REFERENCE / "environment.md").read_text()
    assert {"LINEAGE_HOME", "LINEAGE_STUDIES"} <= used
    assert all(f"`{name}`" in page for name in used), used


@pytest.mark.usefixtures("home")
def test_tags_and_metrics_of_a_grown_family_are_described(tiny_settings: tuple[str, ...]) -> None:
    overrides = [*tiny_settings, "student.soft_targets=stored", "succession.generations=1"]
    (grown,) = lineage.grow("digits", overrides=overrides)
    lineage.ensemble([grown.versions[1].uri], name="digits-ensemble")
    tags, metrics = (REFERENCE / "tags.md").read_text(), (REFERENCE / "metrics.md").read_text()
    for tag in set(_tags_in_use("digits", "digits-ensemble")):
        assert re.search(_as_documented(tag), tags), tag
    for name in set(grown.versions[1].metrics):
        assert f"`{re.sub('^(test|validation)_', '', name)}`" in metrics or f"`{name}`" in metrics, name


def test_benchmarks_have_their_place_in_the_performance_page() -> None:
    page = (DOCS / "explanation" / "performance.md").read_text()
    sections = re.findall(r'^    "(\w+)": \(', (ROOT / "tests/benchmarks/run.py").read_text(), re.MULTILINE)
    assert {"training", "study", "loading", "costs"} <= set(sections)
    for name in sections:
        assert re.search(rf"<!-- bench:{name} -->\n\|.*\|\n<!-- /bench:{name} -->", page, re.DOTALL), name


def _calls(text: str) -> Iterator[list[str]]:
    """Yield the arguments of ``lineage`` in a command line, started by itself or by a launcher."""
    words = shlex.split(text, comments=True)
    for place, word in enumerate(words):
        if word == "lineage" and (place == 0 or words[place - 1] == "-m"):
            yield words[place + 1 :]


def _parse(arguments: list[str]) -> None:
    """Parse a command line as the application does, and run nothing."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert arguments[0] in command.commands, arguments
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context("lineage", list(arguments))


def _tags_in_use(*names: str) -> Iterator[str]:
    client = MlflowClient()
    for name in names:
        yield from client.get_registered_model(name).tags
        for version in client.search_model_versions(f"name = '{name}'"):
            yield from version.tags
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            for run in client.search_runs([experiment.experiment_id]):
                yield from (tag for tag in run.data.tags if tag.startswith("lineage."))


def _as_documented(tag: str) -> str:
    """Return a pattern of a tag as the page writes it, with placeholders for what varies."""
    placeholders = {
        "lineage.member.": "<i>",
        "lineage.signals.": "<digest>",
        "lineage.version.": "<package>",
        "lineage.log.": "…",
    }
    for prefix, placeholder in placeholders.items():
        if tag.startswith(prefix):
            tag = prefix + placeholder
    return f"`{re.escape(tag)}`"
