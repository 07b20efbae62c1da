"""Stores that can only be read, that a later MLflow wrote, and that have lost weights."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import lineage
from lineage.display.progress import SilentReporter
from lineage.errors import RegistryError
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import read_family


@pytest.fixture(scope="module")
def grown(module_home: Path, tiny_settings: tuple[str, ...]) -> Path:
    """The folder of a store with a patriarch."""
    lineage.grow("digits", generations=0, overrides=tiny_settings)
    return module_home


class Told(SilentReporter):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def notice(self, line: str) -> None:
        self.lines.append(line)

    def pulled(self, version: Version) -> None:
        self.lines.append(f"{version.uri} is held")


def unprivileged() -> list[str]:
    """Return the start of a command that file modes bind even if root runs the tests."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root writes everywhere, and there is no setpriv to take that right away")
    return ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


def test_store_that_can_only_be_read_is_read_and_not_written(grown: Path, tmp_path: Path) -> None:
    copy = tmp_path / "read-only"
    shutil.copytree(grown, copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode & 0o555)
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{copy / 'mlflow.db'}",
        "LINEAGE_HOME": str(tmp_path / "home"),
    }

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [*unprivileged(), sys.executable, "-m", "lineage", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    try:
        shown, refused = run("tree", "digits"), run("grow", "digits", "--seeds", "7..7")
    finally:
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | 0o700)
    assert shown.returncode == 0, shown.stderr
    assert "v1" in shown.stdout
    assert refused.returncode == 5
    assert "must be writable, but" in refused.stderr


def test_store_of_a_later_mlflow_asks_for_that_one(home: Path) -> None:
    with closing(sqlite3.connect("mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        database.execute("INSERT INTO experiment_tags VALUES ('a', 'b', 0)")
    with pytest.raises(RegistryError, match=r"a later one wrote it \(schema ffffffffffff\); upgrade MLflow"):
        read_family("digits")


def test_key_whose_weights_are_gone_is_not_said_to_be_held(
    grown: Path, tiny_settings: tuple[str, ...]
) -> None:
    (version,) = read_family("digits")
    (folder,) = grown.rglob(version.model_id)
    kept = folder.rename(folder.with_name("elsewhere"))
    told = Told()
    try:
        lineage.grow("digits", generations=0, overrides=tiny_settings, reporter=told)
    finally:
        kept.rename(folder)
    (line,) = told.lines
    assert line.startswith(f"The weights of {version.uri} must lie in sqlite:///")
    assert line.endswith("or remove the version with 'lineage rm' to train it again.")
    (again,) = lineage.grow("digits", generations=0, overrides=tiny_settings, reporter=told)
    assert (again.num_trained, told.lines[1:]) == (0, [f"{version.uri} is held"])
