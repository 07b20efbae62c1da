"""A second machine, which has only the tracking URI, can do with a family what the first one can."""

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from warm import run_warm

Run = Callable[..., Any]


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Any:
    """A server that proxies artifacts, over sqlite and over PostgreSQL."""
    return request.getfixturevalue(f"{request.param}_registry")


@pytest.fixture
def family(store: Any, run_lineage: Run, tiny: Callable[..., list[str]]) -> str:
    """A patriarch and a student that the first machine has grown."""
    name = f"shared-{uuid.uuid4().hex[:8]}"
    grown = run_lineage("grow", "digits", "--name", name, "--generations", "1", *tiny())
    assert grown.returncode == 0, grown.stderr
    return name


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The second machine's working directory; its home folder is as empty."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture
def run_elsewhere(store: Any, elsewhere: Path, tmp_path: Path) -> Run:
    """Function that runs ``lineage`` there and returns what it prints as JSON."""
    (tmp_path / "empty").mkdir()
    environment = {
        "MLFLOW_TRACKING_URI": store.uri,
        "HOME": str(tmp_path / "empty"),
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
    }

    def run(*arguments: str) -> Any:
        done = run_warm(["-m", "lineage", *arguments, "--json"], elsewhere, environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("store", ["http", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True)
def test_second_machine_grows_evaluates_and_draws(family: str, run_elsewhere: Run, elsewhere: Path) -> None:
    (lineage,) = run_elsewhere("grow", "--from", f"models:/{family}/2", "--seed", "7")
    (student,) = lineage["versions"]
    assert (student["version"], student["generation"], student["teacher"]) == (3, 2, f"{family}/2")
    assert lineage["trained"] == 1
    (again,) = run_elsewhere("grow", "--from", f"models:/{family}/2", "--seed", "7")
    assert (again["trained"], again["versions"]) == (0, [student])

    evaluation = run_elsewhere("evaluate", student["uri"])
    assert evaluation["metrics"] == evaluation["recorded"]

    tree = run_elsewhere("tree", family)
    assert [version["teacher"] for version in tree["versions"]] == [None, f"{family}/1", f"{family}/2"]
    left = {path.name for path in elsewhere.iterdir()}
    assert left <= {".lineage"}


@pytest.mark.parametrize("store", [pytest.param("http", marks=pytest.mark.slow), "postgres"], indirect=True)
def test_second_machine_combines_and_transfers(family: str, run_elsewhere: Run) -> None:
    ensemble = run_elsewhere("ensemble", f"models:/{family}/2", "--ancestors", "1", "--register", family)
    assert ensemble, "it is printed as well as registered"
    version = run_elsewhere("show", f"models:/{family}/3")
    assert version["kind"] == "ensemble"
    transferred = run_elsewhere("transfer", f"models:/{family}/2", "--to", "digits", "--ancestors", "1")
    assert len(transferred) == 2
    student = run_elsewhere("grow", "--from", f"models:/{family}/3", "--seed", "8")[0]["versions"][0]
    assert student["teacher"] == f"{family}/3"
