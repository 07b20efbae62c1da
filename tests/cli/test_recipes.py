import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lineage.cli.recipes import app
from lineage.errors import IntegrityError, LineageError, NotFoundError, RecipeError
from lineage.recipe import Recipe, load_recipe, recipe_names, recipe_path, recipe_schema


def _printed(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert outcome.exit_code == 0
    return outcome.stdout


def _refused(*arguments: str) -> LineageError:
    with pytest.raises(LineageError) as caught:
        CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return caught.value


def test_ls_prints_each_recipe_with_its_first_line() -> None:
    lines = _printed("ls").splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    for line, name in zip(lines, recipe_names(), strict=True):
        first = recipe_path(name).read_text(encoding="utf-8").partition("\n")[0]
        assert first == f"# {line.removeprefix(name).strip()}"


def test_ls_prints_json() -> None:
    rows = json.loads(_printed("ls", "--json"))
    assert [row["name"] for row in rows] == recipe_names()
    assert all(row["summary"] and not row["summary"].startswith("#") for row in rows)


def test_show_prints_the_file_as_it_is() -> None:
    assert _printed("show", "digits") == recipe_path("digits").read_text(encoding="utf-8")


def test_show_prints_the_resolved_recipe_as_json() -> None:
    assert Recipe.from_json(_printed("show", "digits", "--json")) == load_recipe("digits")


def test_show_of_a_broken_recipe_prints_its_text(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[data\n")
    assert _printed("show", str(path)) == "[data\n"
    assert isinstance(_refused("show", str(path), "--json"), RecipeError)


def test_show_of_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff")
    assert "must be readable text" in str(_refused("show", str(path)))


def test_cp_writes_a_recipe_that_loads(tmp_path: Path) -> None:
    target = tmp_path / "mine.toml"
    assert _printed("cp", "digits", str(target)) == f"Copied digits to {target}.\n"
    assert load_recipe(str(target)) == load_recipe("digits")


def test_cp_to_a_folder_keeps_the_name(tmp_path: Path) -> None:
    target = tmp_path / "digits.toml"
    outcome = json.loads(_printed("cp", "digits", str(tmp_path), "--json"))
    assert outcome == {"name": "digits", "path": str(target)}
    assert target.read_bytes() == recipe_path("digits").read_bytes()


def test_cp_overwrites_only_with_force(tmp_path: Path) -> None:
    target = tmp_path / "mine.toml"
    target.write_text("precious")
    error = _refused("cp", "digits", str(target))
    assert isinstance(error, IntegrityError)
    assert str(error) == (
        f"'{target}' must not exist, but does; give another name, or --force to overwrite it."
    )
    assert target.read_text() == "precious"
    _printed("cp", "digits", str(target), "--force")
    assert load_recipe(str(target)) == load_recipe("digits")


def test_cp_to_a_missing_folder_is_refused(tmp_path: Path) -> None:
    error = _refused("cp", "digits", str(tmp_path / "none" / "mine.toml"))
    assert isinstance(error, NotFoundError)
    assert str(error) == f"The folder '{tmp_path / 'none'}' must exist, but does not; create it first."


def test_cp_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = _refused("cp", "digits", str(tmp_path / "file" / "mine.toml"))
    assert "must be writable, but is not" in str(error)


def test_cp_of_an_unknown_recipe_writes_nothing(tmp_path: Path) -> None:
    assert isinstance(_refused("cp", "digts", str(tmp_path / "mine.toml")), NotFoundError)
    assert not list(tmp_path.iterdir())


def test_validate_prints_the_digest() -> None:
    assert _printed("validate", "digits") == f"digits is valid: digest {load_recipe('digits').digest}.\n"


def test_validate_applies_overrides() -> None:
    overrides = ["training.epochs=3", "data.root=some/folder"]
    options = [part for override in overrides for part in ("--set", override)]
    outcome = json.loads(_printed("validate", str(recipe_path("digits")), *options, "--json"))
    assert outcome["digest"] == load_recipe("digits", overrides).digest
    assert outcome["settings"]["training"]["epochs"] == 3


def test_validate_refuses_a_recipe_that_cannot_hold() -> None:
    error = _refused("validate", "digits", "--set", "patriarch.strictness=0")
    assert isinstance(error, RecipeError)
    assert str(error) == "patriarch.strictness must be greater than 0 and at most 1, but got 0."


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_schema_prints_the_schema(options: list[str]) -> None:
    assert json.loads(_printed("schema", *options)) == recipe_schema()


def test_module_costs_no_pydantic_until_a_command_runs() -> None:
    code = "import sys, lineage.cli.recipes; print({'pydantic', 'torch', 'mlflow'} & {*sys.modules})"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout == "set()\n"
