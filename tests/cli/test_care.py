import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lineage.registry.family.lookup import read_family

Process = subprocess.CompletedProcess[str]
Lineage = Callable[..., Process]


@pytest.fixture(scope="module", autouse=True)
def family(module_home: object, call_main: Lineage, tiny: Callable[..., list[str]]) -> None:
    """A patriarch and two students, and another patriarch; the tests of this module only read them."""
    assert call_main("grow", "digits", "--generations", "2", *tiny()).returncode == 0
    assert call_main("grow", "digits", "--generations", "0", *tiny("succession.seed=1")).returncode == 0


def _printed(outcome: Process) -> list[list[str]]:
    assert (outcome.returncode, outcome.stderr) == (0, "")
    return [line.split() for line in outcome.stdout.splitlines()]


def _error_line(outcome: Process, code: int) -> str:
    assert (outcome.returncode, outcome.stdout) == (code, "")
    assert outcome.stderr.count("\n") == 1
    return outcome.stderr


def test_ancestors_are_listed_nearest_first(call_main: Lineage) -> None:
    rows = [row[:2] for row in _printed(call_main("ancestors", "models:/digits/3"))]
    assert rows[-2:] == [["1", "digits/2"], ["2", "digits/1"]]


def test_version_without_relatives_says_so(call_main: Lineage) -> None:
    (above,) = _printed(call_main("ancestors", "models:/digits/1"))
    assert " ".join(above) == "models:/digits/1 has no ancestors in this store."
    (below,) = _printed(call_main("descendants", "models:/digits/4"))
    assert " ".join(below) == "models:/digits/4 has no descendants."
    assert json.loads(call_main("ancestors", "models:/digits/1", "--json").stdout) == []


def test_tree_ancestors_and_descendants_agree(call_main: Lineage) -> None:
    edges = json.loads(call_main("tree", "digits", "--json").stdout)["edges"]
    assert edges == [["digits/1", "digits/2"], ["digits/2", "digits/3"]]
    above = json.loads(call_main("ancestors", "models:/digits/3", "--json").stdout)
    assert [relative["uri"] for relative in above] == ["models:/digits/2", "models:/digits/1"]
    below = json.loads(call_main("descendants", "models:/digits/1", "--json").stdout)
    assert [relative["uri"] for relative in below] == ["models:/digits/2", "models:/digits/3"]
    family = read_family("digits")
    assert [version.uri for version in family.ancestors(family.versions[2])] == [a["uri"] for a in above]


def test_depth_ends_the_list(call_main: Lineage) -> None:
    found = json.loads(call_main("descendants", "models:/digits/1", "--depth", "1", "--json").stdout)
    assert [(relative["distance"], relative["uri"]) for relative in found] == [(1, "models:/digits/2")]


def test_log_lists_all_events(call_main: Lineage) -> None:
    lines = call_main("log", "digits").stdout.splitlines()
    assert sum("registered" in line for line in lines) == 4
    assert any("@latest-generation moved from v2 to v3" in line for line in lines)
    assert not any("inferred" in line for line in lines)
    events = json.loads(call_main("log", "digits", "--json").stdout)
    assert events[0]["event"] == "registered"
    assert events[0].keys() == {
        "event", "version", "alias", "previous", "model_id", "user", "time", "inferred"
    }  # fmt: skip


def test_healthy_family_is_reported_healthy(call_main: Lineage) -> None:
    outcome = call_main("doctor", "digits")
    assert (outcome.returncode, outcome.stdout) == (0, "digits is healthy, 4 versions examined.\n")
    found = json.loads(call_main("doctor", "digits", "--json").stdout)
    nothing: dict[str, list[str]] = {"findings": [], "fixed": [], "notes": []}
    assert found == {"name": "digits", "versions": 4, "healthy": True} | nothing


def test_refused_removal_exits_with_4(call_main: Lineage) -> None:
    error = _error_line(call_main("rm", "models:/digits/1"), code=4)
    assert "models:/digits/1 must have no descendants to be removed, but models:/digits/2 needs it" in error
    assert len(read_family("digits")) == 4


@pytest.mark.parametrize("command", ["log", "doctor"])
def test_unknown_family_is_not_found(command: str, call_main: Lineage) -> None:
    assert "Did you mean 'digits'?" in _error_line(call_main(command, "digts"), code=3)


@pytest.mark.parametrize("command", ["ancestors", "descendants", "rm"])
def test_unknown_version_is_not_found(command: str, call_main: Lineage) -> None:
    assert "holds no models:/digits/9" in _error_line(call_main(command, "models:/digits/9"), code=3)


def test_reserved_alias_is_refused(call_main: Lineage) -> None:
    error = _error_line(call_main("promote", "models:/digits/1", "--alias", "best"), code=2)
    assert "which lineage moves by itself" in error


def test_family_is_looked_after(home: Path, call_main: Lineage, tiny: Callable[..., list[str]]) -> None:
    assert call_main("grow", "digits", "--generations", "2", *tiny()).returncode == 0
    assert (
        "models:/digits@champion is models:/digits/1."
        in call_main("promote", "models:/digits/1", "--alias", "champion").stdout
    )
    outcome = call_main("rm", "models:/digits/2", "--force")
    assert outcome.stdout.splitlines() == [
        "Removed models:/digits/2 and left a tombstone.",
        "models:/digits/3 needed it.",
    ]
    lines = call_main("tree", "digits").stdout.splitlines()
    assert lines[0] == "digits  2 versions  1 removed"
    assert lines[2].startswith("   └─ v2  generation 1")
    assert lines[2].endswith("student  seed 0  removed")
    assert lines[3].startswith("      └─ v3")
    (stone,) = json.loads(call_main("tree", "digits", "--json").stdout)["removed"]
    assert (stone["uri"], stone["teacher"]) == ("models:/digits/2", "digits/1")
    assert call_main("doctor", "digits").returncode == 0
    orphan = read_family("digits").versions[-1]
    next((home / "mlruns").rglob(f"{orphan.model_id}/**/weights.safetensors")).unlink()
    outcome = call_main("doctor", "digits", "--json")
    assert outcome.returncode == 4
    (finding,) = json.loads(outcome.stdout)["findings"]
    assert (finding["check"], finding["subject"]) == ("missing-weights", "models:/digits/3")


def test_doctor_prints_what_it_found_and_fixed(
    home: Path, call_main: Lineage, tiny: Callable[..., list[str]]
) -> None:
    assert call_main("grow", "digits", "--generations", "1", *tiny()).returncode == 0
    MlflowClient().set_registered_model_alias("digits", "latest-generation", "1")
    outcome = call_main("doctor", "digits", "--skip-weights")
    assert outcome.returncode == 4
    assert "misplaced-alias" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "digits has 1 finding, 2 versions examined."
    outcome = call_main("doctor", "digits", "--fix")
    assert outcome.returncode == 0
    assert "misplaced-alias" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "digits is healthy, 2 versions examined."
