"""Generates the reference pages of the documentation from the code, so that the two cannot disagree.

MkDocs runs this file as a hook. It adds the recipe keys (from the recipe's JSON schema), the shipped recipes
(from their header comments), the commands (from the Typer application) and the Python API (from the list of
public names in ``lineage/__init__.pyi``, with the programs in ``docs/examples``).
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lineage.cli import app
from lineage.recipe import load_recipe, recipe_names, recipe_path, recipe_schema
from lineage.recipe.problems import FORMS

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"

_FORM_OF_PATTERN = {pattern: form.replace("'", "`") for form, pattern in FORMS.items()}
_LIMITS = {"exclusiveMinimum": ">", "gt": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true` or `false`"}


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the generated pages to those that MkDocs found in ``docs``."""
    from mkdocs.structure.files import File

    for path, make_page in PAGES.items():
        files.append(File.generated(config, path, content=make_page()))
    return files


def recipe_keys_page() -> str:
    """Return the page that lists every recipe key with its type, range, default and meaning."""
    schema = recipe_schema()
    lines = [
        "# Recipe keys",
        "",
        "A recipe is one TOML file. Each section below is a TOML table. Any key can be changed on the",
        "command line with `--set section.key=value`; values are TOML, and a bare word is a text. An unknown",
        "key is an error. `lineage recipes schema` prints the JSON Schema that this page is made from.",
        "",
    ]
    for section, reference in schema["properties"].items():
        table = _definition(schema, reference)
        lines += ["", f"## `[{section}]`", "", table["description"], "", *_key_table(schema, section, table)]
    lines += ["", "### Ranges in `[study.space]`", "", schema["$defs"]["Range"]["description"], ""]
    lines += _key_table(schema, "study.space.KEY", schema["$defs"]["Range"])
    return "\n".join(lines) + "\n"


def recipes_page() -> str:
    """Return the page that lists the shipped recipes, each with its header comment."""
    lines = [
        "# Shipped recipes",
        "",
        "`lineage recipes ls` lists these recipes, `lineage recipes show NAME` prints one, and",
        "`lineage recipes cp NAME FILE` copies one to change it.",
        "",
        "| recipe | network | made for | measured |",
        "|---|---|---|---|",
    ]
    for name in recipe_names():
        header = recipe_header(name)
        measured = "not run" if header["measured"] == "not run" else "yes"
        recipe = load_recipe(name)
        networks = [recipe.network, *([recipe.student.network] if recipe.student.network else [])]
        network = " → ".join(f"`{network.name}`" for network in networks)
        lines.append(f"| [`{name}`](#{name}) | {network} | {header['hardware']} | {measured} |")
    for name in recipe_names():
        header = recipe_header(name)
        lines += ["", f"## `{name}` {{ #{name} }}", "", header.pop("summary"), ""]
        lines += [f"- **{field.capitalize()}:** {text}" for field, text in header.items()]
    return "\n".join(lines) + "\n"


def recipe_header(name: str) -> dict[str, str]:
    """Return the fields of a shipped recipe's header comment by name; ``summary`` is its first line."""
    comments = [line[1:] for line in recipe_path(name).read_text().split("\n\n[")[0].splitlines()]
    fields = {"summary": comments[0].strip()}
    field = ""
    for line in comments[1:]:
        start = re.match(r" (\w+): +(.*)", line)
        if start:
            field, fields[start[1]] = start[1], start[2].strip()
        elif line.strip():
            fields[field] += " " + line.strip()
    return fields


def commands_page() -> str:
    """Return the page that lists every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        "Every command that prints takes `--json`: data go to standard output, progress and errors to",
        "standard error. `lineage COMMAND --help` prints what is written here. See also the",
        "[exit codes](exit-codes.md) and [environment variables](environment.md).",
    ]
    for name, command in visible_commands():
        lines += ["", f"## `{name}`", "", command.help.strip(), ""]
        usage = [_placeholder(p) for p in command.params if p.param_type_name == "argument"]
        lines += ["```text", " ".join([name, *usage, "[OPTIONS]"]), "```", ""]
        lines += ["| argument or option | default | meaning |", "|---|---|---|"]
        lines += [_parameter_row(parameter) for parameter in command.params if not parameter.hidden]
    return "\n".join(lines) + "\n"


def visible_commands() -> Iterator[tuple[str, Any]]:
    """Yield every visible command, with its full name such as ``lineage recipes ls``."""

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield name, command
            return
        for part, child in command.commands.items():
            if not child.hidden:
                yield from walk(f"{name} {part}", child)

    yield from walk("lineage", typer.main.get_command(app))


def api_page() -> str:
    """Return the page that documents each public name of the package, with its example where there is one."""
    lines = [
        "# Python API",
        "",
        "These names are the public API: `import lineage`, then `lineage.NAME`. Everything else is internal",
        "and may change in any release. Importing `lineage` loads neither torch nor MLflow; each name is",
        "loaded when it is first used. The examples run in the folder where the",
        "[tutorial](../tutorial.md) was followed.",
    ]
    for title, wanted in (("Functions", str.islower), ("Types", lambda name: not name.islower())):
        lines += ["", f"## {title}"]
        for name, path in public_names().items():
            if wanted(name):
                lines += ["", *_api_entry(name, path)]
    return "\n".join(lines) + "\n"


def public_names() -> dict[str, str]:
    """Return the full path of every public name, sorted by name."""
    stub = ast.parse((ROOT / "lineage" / "__init__.pyi").read_text())
    paths = {
        alias.asname or alias.name: f"lineage.{node.module}.{alias.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return dict(sorted(paths.items()))


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/recipe-keys.md": recipe_keys_page,
    "reference/recipes.md": recipes_page,
    "reference/commands.md": commands_page,
    "reference/api.md": api_page,
}
"""The generated pages: path under ``docs``, and the function that makes the page's Markdown."""


def _api_entry(name: str, path: str) -> list[str]:
    options = {"heading": f"lineage.{name}", "toc_label": name}
    lines = [f"::: {path}", "    options:", *(f'      {key}: "{value}"' for key, value in options.items())]
    example = EXAMPLES / f"{name}.py"
    if example.is_file():
        lines += ["", f"**Example of `{name}`**", "", "```python", example.read_text().strip(), "```"]
    return lines


def _definition(schema: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a schema's ``$ref`` points to, or the schema itself where it has none."""
    reference = value.get("$ref")
    return dict(value) if reference is None else schema["$defs"][reference.rpartition("/")[2]]


def _key_table(schema: Mapping[str, Any], section: str, table: Mapping[str, Any]) -> list[str]:
    rows = ["| key | type and range | default | meaning |", "|---|---|---|---|"]
    for key, value in table["properties"].items():
        default = "required" if key in table.get("required", ()) else _toml(value.get("default"))
        meaning = _cell(value["description"])
        rows.append(f"| `{section}.{key}` | {_type(schema, value)} | {default} | {meaning} |")
        inner = [*value.get("anyOf", ()), value.get("items", {})]
        for table_of_key in (_definition(schema, option) for option in inner):
            if "properties" in table_of_key:
                rows += _key_table(schema, f"{section}.{key}", table_of_key)[2:]
    return rows


def _type(schema: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    """Return a JSON schema's type and range in words, such as ``integer ≥ 1``."""
    value = _definition(schema, value)
    limits = [f"{sign} {value[name]}" for name, sign in _LIMITS.items() if name in value]
    if "anyOf" in value:
        kinds = [_type(schema, option) for option in value["anyOf"] if option.get("type") != "null"]
        words = "number" if kinds == ["integer", "number"] else " or ".join(dict.fromkeys(kinds))
    elif "enum" in value:
        words = ", ".join(f"`{choice}`" for choice in value["enum"])
    elif "pattern" in value:
        words = _FORM_OF_PATTERN[value["pattern"]]
    elif "properties" in value:
        words = f"table of {', '.join(f'`{key}`' for key in value['properties'])}"
    elif value["type"] == "array":
        words = f"list of ({_type(schema, value['items'])})" if "items" in value else "list"
    elif value["type"] == "object":
        words = "table"
    else:
        words = _TYPES[value["type"]]
    return " ".join([words, ", ".join(limits)]).strip()


def _toml(value: Any) -> str:
    """Return a default as TOML in code marks; a missing one as ``none``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, list | tuple):
        return f"`[{', '.join(_toml(item).strip('`') for item in value)}]`"
    return f"`{value}`"


def _parameter_row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        label = f"`{_placeholder(parameter)}`"
    else:
        names = [*parameter.opts, *parameter.secondary_opts]
        label = ", ".join(f"`{name}`" for name in names)
        if not parameter.is_flag:
            label = f"`{names[0]} {_placeholder(parameter)}`"
    default = "" if parameter.default in (None, False) or parameter.required else f"`{parameter.default}`"
    if parameter.required:
        default = "required"
    return f"| {label} | {default} | {_cell(parameter.help or '')} |"


def _placeholder(parameter: Any) -> str:
    """Return what stands for a parameter's value in a usage line, such as ``URI``."""
    annotation = parameter.type_descriptor.annotation
    kind = getattr(annotation, "__name__", "").replace("str", "text").upper()
    if parameter.param_type_name == "argument":
        kind = parameter.name.upper()
    return str(parameter.metavar or kind)


def _cell(text: str) -> str:
    """Return text for one cell of a Markdown table."""
    return " ".join(text.replace("|", r"\|").split())
