"""The MLflow store in use: where it is, whether it answers, and its errors in our words."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from sqlalchemy.exc import SQLAlchemyError

from lineage.errors import LineageError, NotFoundError, RegistryError
from lineage.formats import first_line

_SQLITE = "sqlite:///"
_SHORT_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_PASSWORD = re.compile(r"(://[^\s:/@]*:)\S*(?=@)|([?&]password=)[^\s&]+")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise what MLflow, the database and the network raise as one of our errors.

    Raises:
        NotFoundError: If the store answers that a thing does not exist.
        RegistryError: If it does not answer, or refuses.
    """
    try:
        yield
    except LineageError:
        raise
    except MlflowException as error:
        kind = NotFoundError if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST) else RegistryError
        raise kind(f"{without_passwords(first_line(error))} (store {safe_uri()})") from error
    except (SQLAlchemyError, requests.RequestException, OSError) as error:
        raise RegistryError(
            f"The store {safe_uri()} must be reachable and writable, but is not:"
            f" {without_passwords(first_line(error))}. Set MLFLOW_TRACKING_URI to one that is."
        ) from error


def safe_uri() -> str:
    """The tracking URI without a password."""
    return without_passwords(mlflow.get_tracking_uri())


def without_passwords(text: str) -> str:
    """``text`` with every password of a URL in it made unreadable."""
    return _PASSWORD.sub(r"\1\2***", text)


@translated_errors()
def connect() -> MlflowClient:
    """A client of the store that ``MLFLOW_TRACKING_URI`` names; by default ``mlflow.db`` in this folder.

    A store over HTTP is asked once a process, with little patience: MLflow's own default waits four minutes
    for a dead server. Later calls keep MLflow's patience, so that a server may restart while a generation
    trains.

    Raises:
        RegistryError: If the store cannot be reached or written.
    """
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        _reach(uri)
    database = _database()
    if database is not None:
        _check_writable(database)
    try:
        return MlflowClient()
    except ModuleNotFoundError as error:
        raise RegistryError(
            f"The store {safe_uri()} needs a driver that is not installed: {error}; install the driver."
        ) from error


def check_store() -> None:
    """Check that the store in use answers and can be written.

    Raises:
        RegistryError: If it does not, or cannot.
    """
    connect()


@translated_errors()
def ensure_experiment(name: str) -> str:
    """The id of the experiment ``name``, created where it is missing.

    Beside an sqlite database its artifacts get an absolute place next to the database, so that the family can
    be read from any working directory.
    """
    client = connect()
    existing = client.get_experiment_by_name(name)
    if existing is not None:
        if existing.lifecycle_stage == "deleted":
            client.restore_experiment(existing.experiment_id)
        return str(existing.experiment_id)
    database = _database()
    location = None if database is None else (database.parent / "mlruns" / name).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        return ensure_experiment(name)  # another process was faster


@translated_errors()
def find_experiment(name: str) -> str:
    """The id of the experiment ``name``; "" where the store holds none.

    Raises:
        RegistryError: If the store does not answer.
    """
    found = connect().get_experiment_by_name(name)
    return "" if found is None else str(found.experiment_id)


@cache
def _reach(uri: str) -> None:
    """Ask the store for anything; only an answer is remembered."""
    with _short_patience():
        MlflowClient(uri).search_experiments(max_results=1)


def _database() -> Path | None:
    """The file of an sqlite store, absolute; None for another store."""
    uri = mlflow.get_tracking_uri()
    if not uri.startswith(_SQLITE):
        return None
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).resolve()


def _check_writable(database: Path) -> None:
    """MLflow retries an sqlite file that cannot be opened for minutes; ask the file system first."""
    folder = database.parent
    locked = [place for place in (folder, database) if place.exists() and not os.access(place, os.W_OK)]
    if not folder.exists():
        found = f"{folder} does not exist"
    elif not folder.is_dir():
        found = f"{folder} is not a folder"
    elif database.is_dir():
        found = f"{database} is a folder"
    elif locked:
        found = f"{locked[0]} is not"
    else:
        return
    raise RegistryError(
        f"The store {safe_uri()} must be writable, but {found}; set MLFLOW_TRACKING_URI to one that is."
    )


@contextmanager
def _short_patience() -> Iterator[None]:
    """MLflow's retries and timeout of HTTP requests, cut short for a while where the user set none."""
    ours = _SHORT_PATIENCE.keys() - os.environ.keys()
    os.environ.update({name: _SHORT_PATIENCE[name] for name in ours})
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)  # another thread may have been here
