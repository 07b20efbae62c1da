import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lineage.registry.family.lookup import find_version

Process = subprocess.CompletedProcess[str]
Main = Callable[..., Process]


@pytest.fixture(scope="module")
def grown(module_home: Path, call_main: Main, tiny: Callable[..., list[str]]) -> Process:
    """A tiny patriarch and its student; the family stays in the store."""
    return call_main("grow", "digits", "--generations", "1", *tiny())


def test_audit_prints_a_table_and_its_progress(grown: Process, call_main: Main) -> None:
    outcome = call_main("audit", "models:/digits/2")
    assert outcome.returncode == 0
    lines = outcome.stdout.splitlines()
    assert lines[0].strip() == "training images of models:/digits/1"
    for number, line in ((1, lines[4]), (2, lines[5])):
        auc = find_version(f"models:/digits/{number}").metrics["audit_threshold_auc"]
        assert line.split()[:3] == [str(number - 1), "threshold", f"{100 * auc:.2f}"]
        assert line.split()[-1] == f"v{number}"
    assert "models:/digits/1: scores of 800 images" in outcome.stderr.splitlines()


def test_json_of_audit_goes_to_standard_output_alone(grown: Process, call_main: Main) -> None:
    found = json.loads(call_main("audit", "models:/digits@latest-generation", "--json").stdout)
    assert [one["uri"] for one in found] == ["models:/digits/1", "models:/digits/2"]
    for one in found:
        assert one["patriarch"] == "models:/digits/1"
        assert (one["members"], one["others"], one["shadows"]) == (400, 400, 0)
        assert 0 <= one["rates"]["threshold"]["auc"] <= 1


def test_shadows_without_pairs_are_code_2(grown: Process, call_main: Main) -> None:
    outcome = call_main("audit", "models:/digits/2", "--shadows", "3")
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("Error: --shadows must be 0 or an even number of at least 4")


def test_version_that_is_not_there_is_code_3(grown: Process, call_main: Main) -> None:
    assert call_main("audit", "models:/digits/7").returncode == 3
