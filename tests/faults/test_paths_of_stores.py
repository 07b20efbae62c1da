"""The default store works in a folder of any name."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from lineage.registry.store.connection import connect, ensure_experiment, safe_uri
from lineage.registry.store.database import database_file, plain_uri

PLAIN = ["with space", "a#b", "100%", "Müller", "a b#c%dü&x=1;y"]
ENCODED = ["50%25", "what?"]  # MLflow leaves an empty folder of the encoded name


@pytest.fixture
def default_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow's default store is the one in use, whatever folder a test moves to."""
    before = mlflow.tracking._tracking_service.utils._tracking_uri  # type: ignore[attr-defined]
    assert before is None
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    yield
    mlflow.tracking._tracking_service.utils._tracking_uri = None  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", PLAIN + ENCODED)
def test_default_store_is_in_the_working_folder_whatever_its_name(
    home: Path, default_store: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = home / name
    folder.mkdir()
    (home / "mlflow.db").rename(folder / "mlflow.db")
    monkeypatch.chdir(folder)
    run = connect().create_run(ensure_experiment("tiles"))
    MlflowClient().log_text(run.info.run_id, "here", "note.txt")
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt") == "here"
    assert (folder / "mlruns" / "tiles" / run.info.run_id / "artifacts" / "note.txt").is_file()
    assert [path.name for path in home.iterdir()] == [name] or name in ENCODED
    assert database_file(mlflow.get_tracking_uri()) == folder / "mlflow.db"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:////tmp/a%20b/mlflow.db?timeout=3", "sqlite:////tmp/a b/mlflow.db?timeout=3"),
        ("sqlite:////tmp/a b/mlflow.db", "sqlite:////tmp/a b/mlflow.db"),
        ("sqlite:///mlflow.db?timeout=3", "sqlite:///mlflow.db?timeout=3"),
        ("sqlite:////tmp/a%3Fb/mlflow.db", "sqlite:////tmp/a%3Fb/mlflow.db"),
    ],
)
def test_uri_is_written_without_percent_encoding_where_it_can_be(uri: str, expected: str) -> None:
    assert plain_uri(uri) == expected


@pytest.mark.parametrize("uri", ["http://host", "postgresql://host/db", "sqlite://", "sqlite:///:memory:"])
def test_store_without_an_sqlite_file_has_none(uri: str) -> None:
    assert database_file(uri) is None


def test_command_works_in_a_folder_of_an_unusual_name(
    home: Path, default_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / PLAIN[-1]
    folder.mkdir()
    (home / "mlflow.db").rename(folder / "mlflow.db")
    command = [sys.executable, "-m", "lineage", "log", "nothing"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 3, ended.stderr
    assert "holds no registered model 'nothing'" in ended.stderr
    assert [path.name for path in home.iterdir()] == [folder.name]
    assert safe_uri().startswith("sqlite:///")
