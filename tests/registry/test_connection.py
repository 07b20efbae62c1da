import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from lineage.errors import IntegrityError, NotFoundError, RegistryError
from lineage.registry.store.connection import connect, ensure_experiment, safe_uri, translated_errors

PATIENCE = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that fails to connect to a store, and returns the message."""

    def attempt(uri: str) -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(RegistryError) as caught:
            connect().search_experiments()
        return str(caught.value)

    return attempt


def test_store_in_use_answers(registry: Any) -> None:
    assert safe_uri() == registry.uri
    assert connect().search_experiments()


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("absent/mlflow.db", "absent does not exist"),
        ("folder", "folder is a folder"),
        ("file/mlflow.db", "file is not a folder"),
        ("dangling.db", "nowhere does not exist"),
    ],
)
def test_sqlite_file_that_cannot_be_is_refused_at_once(
    refused: Callable[[str], str], home: Path, monkeypatch: pytest.MonkeyPatch, place: str, found: str
) -> None:
    monkeypatch.setattr(time, "sleep", _must_not_wait)
    (home / "folder").mkdir()
    (home / "file").touch()
    (home / "dangling.db").symlink_to(home / "nowhere" / "mlflow.db")
    uri = f"sqlite:///{home / place}"
    message = refused(uri)
    assert message.startswith(f"The store {uri} must be writable, but {home}")
    assert message.endswith(f"{found}; set MLFLOW_TRACKING_URI to one that is.")


def _must_not_wait(seconds: float) -> None:
    raise AssertionError(f"It waits for {seconds} seconds.")


def test_file_that_is_no_database_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "other.db").write_text("no database\n" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'other.db'}")
    with pytest.raises(RegistryError, match=r"reachable and writable, but is not: .*not a database"):
        ensure_experiment("tiles")


@pytest.mark.parametrize("locked", ["mlflow.db", "."])
def test_sqlite_without_the_right_to_write_is_refused_at_once(home: Path, locked: str) -> None:
    (home / locked).chmod(0o555)
    program = (
        "import time; from lineage.registry.store.connection import check_store; sleeps = []\n"
        "time.sleep = sleeps.append  # MLflow tries again and again\n"
        "try: check_store()\n"
        "except Exception as error: print(type(error).__name__, len(sleeps), error)"
    )
    command = [*_without_override(), sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    (home / locked).chmod(0o755)
    kind, waits, message = ended.stdout.strip().split(" ", 2)
    assert kind == "RegistryError"
    assert waits == "0"
    assert f"must be writable, but {(home / locked).resolve()} is not" in message


def _without_override() -> list[str]:
    """Return the start of a command that file modes bind even if root runs the tests."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root writes everywhere, and there is no setpriv to take that right away")
    return ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


def test_dead_server_is_refused_after_two_attempts(
    refused: Callable[[str], str],
    home: Path,
    free_port: Callable[[], int],
    connection_attempts: list[object],
) -> None:
    message = refused(f"http://127.0.0.1:{free_port()}")
    assert "must answer, but refuses connections; start it again, or set MLFLOW_TRACKING_URI" in message
    assert len(connection_attempts) == 2


def test_silent_server_is_waited_for_as_long_as_the_user_says(
    refused: Callable[[str], str],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    connection_attempts: list[object],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = refused(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "must answer, but did not in time (MLFLOW_HTTP_REQUEST_TIMEOUT)" in message
    assert len(connection_attempts) == 2
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1"


def test_patience_of_mlflow_is_cut_short_only_while_connecting(
    refused: Callable[[str], str], home: Path, free_port: Callable[[], int]
) -> None:
    refused(f"http://127.0.0.1:{free_port()}")
    assert not any(variable in os.environ for variable in PATIENCE)


def test_server_is_asked_once_a_process(http_registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", http_registry.uri.replace("127.0.0.1", "localhost"))
    assert len(http_registry.requests_during(connect)) == 1
    assert http_registry.requests_during(connect) == []


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:se/cr@et@host:5000", "http://user:***@host:5000"),
        ("postgresql+psycopg://user:secret@host/db", "postgresql+psycopg://user:***@host/db"),
        ("postgresql://host/db?user=u&password=secret&x=1", "postgresql://host/db?user=u&password=***&x=1"),
        ("http://user@host:5000", "http://user@host:5000"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_uri_is_shown_without_its_password(
    home: Path, monkeypatch: pytest.MonkeyPatch, uri: str, shown: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert safe_uri() == shown


@pytest.mark.parametrize("scheme", ["http", "nothing", "mssql+nothing"])
def test_password_is_in_no_message(
    refused: Callable[[str], str], home: Path, free_port: Callable[[], int], scheme: str
) -> None:
    message = refused(f"{scheme}://user:secret@127.0.0.1:{free_port()}/db")
    assert "user:***@" in message
    assert "secret" not in message


def test_missing_driver_is_said_to_be_missing(
    refused: Callable[[str], str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)  # as where it is not installed
    message = refused("mysql+pymysql://user:secret@127.0.0.1/db")
    assert message.startswith("The store mysql+pymysql://user:***@127.0.0.1/db needs a driver")


def test_what_the_store_does_not_hold_is_not_found(registry: Any) -> None:
    with pytest.raises(NotFoundError, match=f"{'0' * 32}.*{registry.uri}"), translated_errors():
        MlflowClient().get_run("0" * 32)


def test_what_the_store_refuses_is_an_error_of_the_registry(registry: Any) -> None:
    with pytest.raises(RegistryError, match="Invalid value -1"), translated_errors():
        MlflowClient().search_experiments(max_results=-1)


@pytest.mark.parametrize("error", [OperationalError("", {}, Exception("gone")), ConnectionError("gone")])
def test_errors_below_mlflow_are_errors_of_the_registry(home: Path, error: Exception) -> None:
    with pytest.raises(RegistryError, match=r"must be reachable and writable.*gone"), translated_errors():
        raise error


@pytest.mark.parametrize("error", [IntegrityError("ours"), ValueError("a bug")])
def test_other_errors_are_left_alone(home: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translated_errors():
        raise error
    assert caught.value is error


def test_experiment_is_created_once(registry: Any, name: str) -> None:
    assert ensure_experiment(name) == ensure_experiment(name)


def test_experiment_that_was_deleted_is_restored(registry: Any, name: str) -> None:
    found = ensure_experiment(name)
    MlflowClient().delete_experiment(found)
    assert ensure_experiment(name) == found
    assert MlflowClient().get_experiment(found).lifecycle_stage == "active"


def test_experiment_is_created_once_by_many_at_a_time(registry: Any, name: str) -> None:
    ensure_experiment(f"{name}-first")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(ensure_experiment, [name] * 4))
    assert len(found) == 1


@pytest.mark.parametrize("experiment", ["tiles", "it's 50% #1 ü"])
def test_artifacts_lie_beside_the_database_wherever_one_works(
    home: Path, monkeypatch: pytest.MonkeyPatch, experiment: str
) -> None:
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    client = MlflowClient()
    run = client.create_run(ensure_experiment(experiment))
    client.log_text(run.info.run_id, "here", "note.txt")
    found = home / "mlruns" / experiment / run.info.run_id / "artifacts" / "note.txt"
    assert found.read_text() == "here"


def test_relative_database_is_found_where_one_works(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db?timeout=3")
    found = MlflowClient().get_experiment(ensure_experiment("tiles"))
    assert found.artifact_location == (home / "mlruns" / "tiles").as_uri()


def test_experiment_that_cannot_be_created_is_refused(home: Path) -> None:
    with pytest.raises(RegistryError) as caught:
        ensure_experiment("")
    assert isinstance(caught.value.__cause__, MlflowException)
