import json
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import lineage_mlflow.context
import mlflow
import pytest
from mlflow import MlflowClient

import lineage.growing.succession  # noqa: F401 - what makes this process one that grows generations
from lineage.data.datasets import DataSpec
from lineage.registry.store.connection import ensure_experiment
from lineage.registry.store.runs import start_run, tagging_runs

OUTSIDE = """
import json, sys
import mlflow
with mlflow.start_run() as run:
    pass
print(json.dumps([mlflow.get_run(run.info.run_id).data.tags, sorted(sys.modules)]))
"""


@pytest.fixture(autouse=True)
def anywhere() -> None:
    """Forgets what git said before: each test stands in a folder of its own."""
    lineage_mlflow.context._commit.cache_clear()


@pytest.fixture
def expected() -> dict[str, str]:
    packages = ("torch", "torchvision", "pytorch-ignite", "accelerate", "mlflow", "numpy")
    return {f"lineage.version.{package}": version(package) for package in packages} | {
        "lineage.version.lineage": version("lineage-distillation"),
        "lineage.command": shlex.join(sys.argv),
        "lineage.host": platform.node(),
        "lineage.python": platform.python_version(),
    }


def ours(tags: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if name.startswith("lineage.")}


def test_run_of_a_generation_says_where_it_was_started(home: Path, expected: dict[str, str]) -> None:
    data = DataSpec("tiles", ("a", "b"), None, (0.5,), (0.5,), (1, 8, 8), "d")
    run = start_run(ensure_experiment("tiles"), "tiles", (), {"key": "k"}, "{}", {}, data)
    tags = MlflowClient().get_run(run.run_id).data.tags
    assert ours(tags) == expected | {"lineage.key": "k"}
    assert "mlflow.user" in tags


def test_run_started_by_mlflow_itself_beside_a_succession_says_so_too(
    home: Path, expected: dict[str, str]
) -> None:
    with mlflow.start_run() as run:
        pass
    assert ours(MlflowClient().get_run(run.info.run_id).data.tags) == expected


def test_run_of_another_program_is_left_alone(home: Path) -> None:
    command = [sys.executable, "-c", OUTSIDE]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    tags, modules = json.loads(ended.stdout.splitlines()[-1])
    assert ours(tags) == {}
    assert "lineage_mlflow.context" in modules
    assert "torch" not in modules


def test_run_inside_a_succession_says_what_is_true_of_it(home: Path) -> None:
    with tagging_runs({"recipe_digest": "r", "devices": "cpu"}), tagging_runs({"devices": "2 × cpu"}):
        inside = start_tiles()
    outside = start_tiles()
    assert (inside["lineage.recipe_digest"], inside["lineage.devices"]) == ("r", "2 × cpu")
    assert "lineage.recipe_digest" not in outside


def test_run_says_which_commit_it_was_started_in_and_whether_files_differ(home: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", *who, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet")
    file = home / "recipe.toml"
    file.write_text("one")
    git("add", file.name)
    git("commit", "--quiet", "-m", "one")
    tags = start_tiles()
    assert (tags["lineage.git_commit"], tags["lineage.git_dirty"]) == (git("rev-parse", "HEAD"), "false")
    lineage_mlflow.context._commit.cache_clear()  # as in the next process
    file.write_text("two")
    assert start_tiles()["lineage.git_dirty"] == "true"


def start_tiles() -> dict[str, str]:
    """The tags of a run that is started now."""
    data = DataSpec("tiles", ("a", "b"), None, (0.5,), (0.5,), (1, 8, 8), "d")
    run = start_run(ensure_experiment("tiles"), "tiles", (), {"key": "k"}, "{}", {}, data)
    return dict(MlflowClient().get_run(run.run_id).data.tags)
