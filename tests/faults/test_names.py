"""Names that a store or a terminal could not take are refused before anything is trained or created."""

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.text import Text

from lineage.cli.output import print_json, print_rich, print_text
from lineage.display.progress import ConsoleReporter
from lineage.errors import UsageError
from lineage.evaluation.ensemble import ensemble
from lineage.exchange.adopt import Candidate, adopt
from lineage.growing.grow import grow
from lineage.recipe import Recipe, check_name, load_recipe, override

UNFIT = {
    "": "not empty",
    "a/b": "neither '/' nor ':'",
    "a:b": "neither '/' nor ':'",
    ".": "no folder",
    "..": "no folder",
    "..a": "no folder",
    " a": "blank",
    "a ": "blank",
    "a\\": "blank",
    "a\x1b[31mb": "control characters",
    "a\nb": "control characters",
    "a\x7fb": "control characters",
    "a\x9bb": "control characters",
    "a\u202eb": "control characters",
    "a\u2066b": "control characters",
    "a\u200bb": "control characters",
    "a\u200db": "control characters",
    "a\udcffb": "control characters",
    "x" * 201: "at most 200 characters",
    "\N{DNA DOUBLE HELIX}" * 64: "255 bytes",
}
FINE = ["a.b", ".a", "Größe 2", "\N{DNA DOUBLE HELIX}", "👩🏽\u200d🔬", "x" * 200, 'say "hi"', "it's", "שלום"]


@pytest.mark.parametrize("name", UNFIT)
def test_name_that_a_store_or_a_terminal_cannot_take_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError, match=UNFIT[name]) as caught:
        check_name(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", UNFIT)
def test_recipe_of_such_a_name_is_refused_but_a_stored_one_is_read(name: str) -> None:
    with pytest.raises(UsageError, match=r"model\.name"):
        load_recipe("digits", [override("model.name", name)])
    stored = json.loads(load_recipe("digits").to_json())
    stored["model"]["name"] = name
    if name and not set("/:\udcff") & set(name):
        assert Recipe.from_json(json.dumps(stored)).model.name == name


@pytest.mark.parametrize("name", FINE)
def test_other_names_are_fine_and_survive_an_override(name: str) -> None:
    assert check_name(name) == name
    assert load_recipe("digits", [override("model.name", name)]).model.name == name


def test_unfit_name_creates_nothing(home: Path) -> None:
    before = (home / "mlflow.db").read_bytes()
    for attempt in (
        lambda: grow("digits", name=".."),
        lambda: grow("digits", overrides=["model.name='..'"]),
        lambda: adopt("..", Candidate(network="resnet8", weights="none.safetensors"), data="digits"),
        lambda: ensemble(["models:/digits/1"], name=".."),
    ):
        with pytest.raises(UsageError, match="no folder"):
            attempt()
    assert {path.name for path in home.iterdir()} == {"mlflow.db"}
    assert (home / "mlflow.db").read_bytes() == before


def test_family_named_by_an_emoji_is_grown_and_branched(home: Path) -> None:
    name = "👩🏽\u200d🔬"
    untrained = ["network.width=4", "training.epochs=0", "training.warmup_epochs=0"]
    grow("digits", name=name, generations=0, overrides=untrained)
    (branch,) = grow(teacher=f"models:/{name}/1", overrides=untrained)
    assert [version.uri for version in branch.versions] == [f"models:/{name}/2"]
    assert MlflowClient().get_experiment_by_name(name) is not None
    assert (home / "mlruns" / name).is_dir()


HOSTILE = "red\x1b[31m\x9b1mright\u202eleft\udcff"
SHOWN = "red\ufffd[31m\ufffd1mright\ufffdleft\ufffd"


def test_printing_leaves_no_escape_sequence_of_a_registry(capsys: pytest.CaptureFixture[str]) -> None:
    print_text(HOSTILE + "\nsecond line")
    assert capsys.readouterr().out == f"{SHOWN}\nsecond line\n"
    print_rich(Text(HOSTILE), HOSTILE)
    assert capsys.readouterr().out == f"{SHOWN}\n{SHOWN}\n"
    print_json({HOSTILE: "Größe"})
    printed = capsys.readouterr().out
    assert "Größe" in printed
    assert printed.replace("\n", "").isprintable()
    assert json.loads(printed) == {HOSTILE: "Größe"}


def test_progress_leaves_no_escape_sequence_of_a_registry() -> None:
    from rich.console import Console

    console = Console(file=StringIO(), width=80)
    ConsoleReporter(console).notice(HOSTILE)
    assert console.file.getvalue() == f"{SHOWN}\n"  # type: ignore[attr-defined]


def test_error_that_quotes_an_escape_sequence_is_printed_without_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lineage", "recipes", "show", "\x1b[31m\udcff.toml"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert outcome.returncode == 3
    assert "at '\ufffd[31m\ufffd.toml'" in outcome.stderr.decode()
